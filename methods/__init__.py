"""One idea of parameter-efficient transfer learning a file."""
