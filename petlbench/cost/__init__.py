"""What a method costs, measured or counted: the cost section of a record."""
