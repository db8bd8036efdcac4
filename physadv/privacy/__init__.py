"""Personal photos that face recognition no longer matches, and the truth about how well."""
