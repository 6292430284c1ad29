"""`petlbench try`: a comparison of a few methods on a folder of the user's images."""
