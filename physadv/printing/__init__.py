"""Print sheets, test signs and markers as PDF, true to the millimeter."""
