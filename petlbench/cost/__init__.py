"""The costs of a method, measured or counted: the cost section of a record."""
