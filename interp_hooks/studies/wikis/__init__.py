"""A wiki of a model's heads, neurons and features: a folder of tables, and of pages that open without a network.

columns      what is known of every unit, as named numbers with their units: the one place where metrics are joined in
units        which units there are, and what a scan of the corpus keeps of them
examples     where units are most active, and the tokens around these places
making       `wiki`: scan, measure, write, move into place
folder       where it is written: a folder beside `out` that a killed run goes on in
tables       the parquet files, and the wiki as it is read again
pages        the data files of the pages, which load them by script tags; static/ holds the pages themselves
neuronpedia  the units as JSON that Neuronpedia and SAEDashboard read
comparing    which head of one model is whose counterpart in another
"""
