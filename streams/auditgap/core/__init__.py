"""The rules: no Kafka, no clock, no network, no randomness. Imports the standard library and itself only."""
