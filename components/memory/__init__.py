"""Working memories."""
