"""Two models beside each other: what differs, where it comes from, and how sure that is.

pairs         which models may be compared in which way, and passes of both over the same rows
weights       what changed in weights, by what no change of basis changes
activations   what changed in activations and attention, and the mean change at the first tokens of any text
between       activations of one model put into the other; direct effects; the way from one to the other, and beyond
losses        how well each predicts any text, aligned on characters, so that tokenizers may differ
predictions   how far apart predictions are, token by token, and which tokens one of them favours
batteries     tasks that both are asked to do; texts that both go on with
latents       which features of a crosscoder are of one model alone
findings      all of it, ranked
"""
