"""Explanations of units in words, by a language model that is asked; how good they are; what else it can be asked for.

endpoint         the language model: any server that speaks OpenAI's chat protocol, local or not
asking           how requests are sent, what is tried again, and what becomes of the key
answers          requests and answers, and the folder that keeps what was answered
examples         texts in which a unit fires, apart for explaining and for testing, and texts in which it does not
drawing          `unit_examples`: how they are drawn
sources          where units fire, by what a scan kept or a wiki has
explaining       `explain`: what a unit answers to, in words
trials           what scoring asks, and how answers are read
scoring          whether the words tell where the unit fires: detection and fuzzing beside their controls; intruders
supernodes       names for groups of nodes of an attribution graph
counterfactuals  prompts with small edits that change the answer, checked by tokenizer and model
substitutes      similar texts by a masked language model, and whether the unit still fires
"""
