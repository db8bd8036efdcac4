"""Photo privacy: cloaks against face recognition, and checks of whether a cloak protects."""
