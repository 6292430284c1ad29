"""Tables of accuracies, costs and throughput, with their notes and published rows."""
