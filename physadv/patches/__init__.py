"""The stations chained: a sticker from its settings to a bundle, its re-verification, and the demo."""
