"""TensorBoard arranged for comparing the variants of a grid."""
