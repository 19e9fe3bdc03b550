"""From a customer's feed to a frozen panel: pull, check against the contract, map, snapshot. It knows no model."""
