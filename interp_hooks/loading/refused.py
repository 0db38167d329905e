"""Model types that no family converts, and why not: a sentence's end for the message that refuses them."""

REFUSED = {
    "cpmant": "its tokens see those that follow, and 32 learned vectors, which no token stands for, before every text",
    "doge": "each layer multiplies the stream by a vector, and attention drops keys by what their values say",
    "laguna": "its layers may differ in their number of heads, and softplus gates what these mix",
    "rwkv": "its MLPs read the token before, too, so that they are no maps of one position's stream",
}
