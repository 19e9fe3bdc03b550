"""The M5 competition's data through the product's own path: its evaluator, what its retailer delivers, and the run."""
