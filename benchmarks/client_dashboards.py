"""sae-dashboard and sae-vis: pages of features of an SAE in a model."""
