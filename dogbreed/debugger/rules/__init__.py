"""The rules: small pure functions over plain arrays. `evaluate` imports and evaluates them all."""
