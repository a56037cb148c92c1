"""Core: transforms, leaves, lift, and what they tell us of a model. Knows no technique and no model."""
