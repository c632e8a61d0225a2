"""What the parts of a stream network do while it trains: measured, judged and drawn."""
