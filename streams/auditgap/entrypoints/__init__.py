"""What is started from outside: parse, call, print or serve."""
