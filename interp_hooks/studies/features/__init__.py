"""Studies of the features of sparse dictionaries, from their weights and from what a scan of a corpus found.

units       features as units of a scan, which reads the model as it is: nothing is spliced in
relations   which features are active together, among all of a dictionary, from one scan
causes      what happens where a feature is ablated
"""
