"""Every kind of bad input, tried for real: refused, quarantined, or forecast on a stated rung."""
