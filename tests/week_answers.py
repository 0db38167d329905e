"""Answers to the exercises of the training week, wrong and right ones, by which their checks are tested."""

# What somebody might write who has nearly understood; after a plus sign, what spoils the solution.
WRONG: dict[str, list[str]] = {
    "1.1": [
        """def attention(q, k):  # without the scale
            scores = einsum(q, k, "b q h w, b k h w -> b h q k")
            return scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf")).softmax(dim=-1)""",
        """def attention(q, k):  # looks ahead
            return (einsum(q, k, "b q h w, b k h w -> b h q k") / q.shape[-1] ** 0.5).softmax(dim=-1)""",
        """def attention(q, k):  # zeros instead of minus infinity
            scores = einsum(q, k, "b q h w, b k h w -> b h q k") / q.shape[-1] ** 0.5
            return scores.tril().softmax(dim=-1)""",
    ],
    "1.2": [
        """def heads_write(z, W_O):  # summed over heads
            return einsum(z, W_O, "b p h w, h w m -> b p m")""",
        """def heads_write(z, W_O):  # every head's z with every W_O
            return einsum(z, W_O, "b p h w, g w m -> b p h m")""",
    ],
    "1.3": [
        """def stream_norms(model, tokens):  # before each layer
            _, cache = model.run_with_cache(tokens)
            return torch.stack([cache["resid_pre", layer].norm(dim=-1) for layer in range(model.cfg.n_layers)])""",
        """def stream_norms(model, tokens):  # leaves its hooks
            norms = []
            for layer in range(model.cfg.n_layers):
                model.add_hook(f"resid_post{layer}", lambda value, hook: norms.append(value.norm(dim=-1)))
            model(tokens)
            return torch.stack(norms)""",
    ],
    "1.4": [
        """def without_head(model, tokens, layer, head):  # the whole layer
            return model.run_with_hooks(tokens, fwd_hooks=[(f"attn_out{layer}", lambda value, hook: value * 0)])""",
        """def without_head(model, tokens, layer, head):  # its queries: it then attends to all alike
            def silence(q, hook):
                q[:, :, head] = 0
            return model.run_with_hooks(tokens, fwd_hooks=[(f"q{layer}", silence)])""",
        """def without_head(model, tokens, layer, head):  # in the weights, for good
            with torch.no_grad():
                model.blocks[layer].attn.W_O[head] = 0
            return model(tokens)""",
    ],
    "1.5": [
        """def patched_logits(model, clean, corrupt, layer, pos):  # the wrong way round
            _, cache = model.run_with_cache(corrupt)
            def put(stream, hook):
                stream[:, pos] = cache[hook.name][:, pos]
            return model.run_with_hooks(clean, fwd_hooks=[(f"resid_pre{layer}", put)])""",
        """def patched_logits(model, clean, corrupt, layer, pos):  # all positions
            _, cache = model.run_with_cache(clean)
            put = lambda stream, hook: cache[hook.name]
            return model.run_with_hooks(corrupt, fwd_hooks=[(f"resid_pre{layer}", put)])""",
        """def patched_logits(model, clean, corrupt, layer, pos):  # after the layer
            _, cache = model.run_with_cache(clean)
            def put(stream, hook):
                stream[:, pos] = cache[hook.name][:, pos]
            return model.run_with_hooks(corrupt, fwd_hooks=[(f"resid_post{layer}", put)])""",
    ],
    "1.6": [
        """def patch_run(clean, corrupt, layer, head):  # the wrong way round
            return Run(clean, [Intervention(at("z", layer, head=head, pos=-1), Run(corrupt))])""",
        """def patch_run(clean, corrupt, layer, head):  # at all positions
            return Run(corrupt, [Intervention(at("z", layer, head=head), Run(clean))])""",
        """def patch_run(clean, corrupt, layer, head):  # all heads
            return Run(corrupt, [Intervention(at("z", layer, pos=-1), Run(clean))])""",
    ],
    "1.7": [
        'early, late = at("resid_pre", 0), at("resid_post", 2)',
        'early, late = at("resid_pre", 0, pos=-1), at("resid_post", 2, pos=-1)',
        'early, late = at("resid_pre", 0, pos=int(pairs.positions["S2"][0])), at("resid_post", 2, pos=-2)',
        'early, late = at("resid_pre", 0, pos=int(pairs.positions["S1"][0])), at("resid_post", 2, pos=-1)',
    ],
    "2.1": [
        """def repeated_words(n, length, d_vocab, generator):  # words may come twice
            words = torch.randint(1, d_vocab, (n, length), generator=generator)
            return torch.cat((torch.zeros(n, 1, dtype=torch.long), words, words), dim=1)""",
        """def repeated_words(n, length, d_vocab, generator):  # BOS among the words, the last one missing
            words = torch.rand(n, d_vocab - 1, generator=generator).argsort(dim=1)[:, :length]
            return torch.cat((torch.zeros(n, 1, dtype=torch.long), words, words), dim=1)""",
        """def repeated_words(n, length, d_vocab, generator):  # all prompts the same
            words = (1 + torch.randperm(d_vocab - 1, generator=generator)[:length]).expand(n, -1)
            return torch.cat((torch.zeros(n, 1, dtype=torch.long), words, words), dim=1)""",
    ],
    "2.2": [
        """def attention_back(pattern, steps):  # above the diagonal
            return pattern.diagonal(steps, dim1=2, dim2=3).mean(dim=(0, 2))""",
        """def attention_back(pattern, steps):  # over all queries
            return pattern.diagonal(-steps, dim1=2, dim2=3).sum(-1).mean(0) / pattern.shape[-1]""",
        """def attention_back(pattern, steps):  # one off
            return pattern.diagonal(-steps - 1, dim1=2, dim2=3).mean(dim=(0, 2))""",
    ],
    "2.3": [
        """def ov_circuit(model, layer, head):  # transposed
            return (model.W_E @ model.W_V[layer, head] @ model.W_O[layer, head] @ model.W_U).T""",
        """def ov_circuit(model, layer, head):  # whether it looks, not what it says
            return model.W_E @ model.W_Q[layer, head] @ model.W_K[layer, head].T @ model.W_E.T""",
        """def ov_circuit(model, layer, head):  # all heads of the layer
            return (model.W_E @ model.W_V[layer] @ model.W_O[layer] @ model.W_U).sum(0)""",
    ],
    "2.4": [
        """def matching(model, previous, inductive):  # transposed
            queries = model.W_E @ model.W_Q[1, inductive]
            keys = model.W_E @ model.W_V[0, previous] @ model.W_O[0, previous] @ model.W_K[1, inductive]
            return keys @ queries.T""",
        """def matching(model, previous, inductive):  # the key's own word
            return (model.W_E @ model.W_Q[1, inductive]) @ (model.W_E @ model.W_K[1, inductive]).T""",
        """def matching(model, previous, inductive):  # the first head feeds queries
            queries = model.W_E @ model.W_V[0, previous] @ model.W_O[0, previous] @ model.W_Q[1, inductive]
            return queries @ (model.W_E @ model.W_K[1, inductive]).T""",
    ],
    "2.5": [
        """def k_composition(model, sender, receiver):  # of queries
            W_OV = model.W_V[sender] @ model.W_O[sender]
            W_QK = model.W_Q[receiver] @ model.W_K[receiver].T
            return (W_OV @ W_QK).norm() / (W_OV.norm() * W_QK.norm())""",
        """def k_composition(model, sender, receiver):  # not divided
            W_OV = model.W_V[sender] @ model.W_O[sender]
            W_QK = model.W_Q[receiver] @ model.W_K[receiver].T
            return (W_OV @ W_QK.T).norm()""",
        """def k_composition(model, sender, receiver):  # the sender's wrong side
            W_OV = model.W_V[sender] @ model.W_O[sender]
            W_QK = model.W_Q[receiver] @ model.W_K[receiver].T
            return (W_OV.T @ W_QK.T).norm() / (W_OV.norm() * W_QK.norm())""",
    ],
    "2.6": [
        """def exchanged(prompts, other, heads, reader):  # everybody hears it
            return Run(prompts, [Intervention(at("z", 0, head=heads), Resample(Run(prompts), other))])""",
        """def exchanged(prompts, other, heads, reader):  # keys, whoever was asked for
            told = Resample(Run(prompts), other)
            return Run(prompts, [Intervention(at("z", 0, head=heads), told, into=at("k_input", 1))])""",
        """def exchanged(prompts, other, heads, reader):  # its own values
            return Run(prompts, [Intervention(at("z", 0, head=heads), Run(prompts), into=at(f"{reader}_input", 1))])""",
    ],
    "2.7": ["needed = [3]", "needed = [0, 1, 2, 3]", "needed = [0, 1]", "needed = [1, 2, 3]"],
    "5.1": [
        """def logit_difference(logits, io, s):  # the wrong way round
            rows = torch.arange(len(logits))
            return logits[rows, -1, s] - logits[rows, -1, io]""",
        """def logit_difference(logits, io, s):  # over all tokens
            rows = torch.arange(len(logits))
            return logits[rows, :, io].mean(1) - logits[rows, :, s].mean(1)""",
        """def logit_difference(logits, io, s):  # of probabilities
            rows, probabilities = torch.arange(len(logits)), logits[:, -1].softmax(-1)
            return probabilities[rows, io] - probabilities[rows, s]""",
    ],
    "5.2": [
        """def direct_effects(model, cache, io, s):  # without the norm
            direction = model.W_U[:, io] - model.W_U[:, s]
            z = torch.stack([cache["z", layer][:, -1] for layer in range(model.cfg.n_layers)])
            return einsum(z, model.W_O, direction, "l p h w, l h w m, m p -> l h p")""",
        """def direct_effects(model, cache, io, s):  # of the right name alone
            direction = model.W_U[:, io] / cache["ln_final.hook_scale"][:, -1, 0]
            z = torch.stack([cache["z", layer][:, -1] for layer in range(model.cfg.n_layers)])
            return einsum(z, model.W_O, direction, "l p h w, l h w m, m p -> l h p")""",
        """def direct_effects(model, cache, io, s):  # at all tokens
            direction = (model.W_U[:, io] - model.W_U[:, s]) / cache["ln_final.hook_scale"][:, -1, 0]
            z = torch.stack([cache["z", layer].sum(1) for layer in range(model.cfg.n_layers)])
            return einsum(z, model.W_O, direction, "l p h w, l h w m, m p -> l h p")""",
    ],
    "5.3": [
        "movers = [(2, 0), (2, 1), (2, 2)]",
        "movers = [(1, 2), (2, 0), (2, 1), (2, 2), (2, 3)]",
        "movers = [(0, 0)]",
        "movers = [(3, 0)]",
    ],
    "5.4": [
        """def told_to_movers(model, task, movers):  # into the keys
            keys = [at("k_input", layer, head=head) for layer, head in movers]
            return path_patch(model, task, receivers=keys, progress=False)""",
        """def told_to_movers(model, task, movers):  # into the logits
            return path_patch(model, task, progress=False)""",
        """def told_to_movers(model, task, movers):  # the other direction
            queries = [at("q_input", layer, head=head, pos="end") for layer, head in movers]
            return path_patch(model, task, receivers=queries, direction="noise", progress=False)""",
        """def told_to_movers(model, task, movers):  # of the first mover alone
            layer, head = movers[0]
            return path_patch(model, task, receivers=at("q_input", layer, head=head, pos="end"), progress=False)""",
    ],
    "5.5": ["notices = (1, 2)", "notices = (0, 1)", "notices = (2, 3)", "notices = 0"],
    "5.6": [
        'who_is_doubled, which_name, which_order = "S2->RAND", "IO->RAND", "IO<->S1"',
        'who_is_doubled, which_name, which_order = "S2->IO", "ABC", "IO<->S1"',
        'who_is_doubled, which_name, which_order = "S2->IO", "IO->RAND", "S1->RAND"',
        'who_is_doubled, which_name, which_order = "IO<->S1", "IO->RAND", "S2->IO"',
    ],
    "5.7": [
        "+control = test",
        "+prediction = (0.0, 1.0)",
        "+question = 'It is so.'",
        "+hypothesis = 'Is it so, or is it not so?'",
        "+test = control = patch(model, pairs, site='z', over=('layer', 'head'), progress=False)",
        "+fresh = tasks.ioi(model, 64, seed=6)\ncontrol = of_the_mlp('S1')",
        "+test, control = control, test",
    ],
    "4.1": [
        """def elevation(tokens):  # from the left
            return ((tokens == CLOSE).long() - (tokens == OPEN).long()).cumsum(1)""",
        """def elevation(tokens):  # the wrong sign
            return ((tokens == OPEN).long() - (tokens == CLOSE).long()).flip(1).cumsum(1).flip(1)""",
        """def elevation(tokens):  # END counts as a bracket
            return torch.where(tokens == OPEN, -1, 1).flip(1).cumsum(1).flip(1)""",
    ],
    "4.2": [
        """def failures(tokens):  # where all is well
            return elevation(tokens)[:, 0] == 0, (elevation(tokens) >= 0).all(1)""",
        """def failures(tokens):  # too high, too
            return elevation(tokens)[:, 0] != 0, (elevation(tokens) != 0).any(1)""",
        """def failures(tokens):  # the horizon at the first bracket only
            return elevation(tokens)[:, 0] != 0, elevation(tokens)[:, 1] < 0""",
        """def failures(tokens):  # not bools
            return elevation(tokens)[:, 0].abs(), (elevation(tokens) < 0).sum(1)""",
    ],
    "4.3": [
        """def two_exchanged(rows):  # backwards
            return rows.flip(1)""",
        """def two_exchanged(rows):  # the first two
            rows = rows.clone()
            rows[:, :2] = rows[:, :2].flip(1)
            return rows""",
        """def two_exchanged(rows):  # in place
            rows[:, 0], rows[:, -1] = CLOSE, OPEN
            return rows""",
        """def two_exchanged(rows):  # two turned, the same way
            rows = rows.clone()
            rows[:, -2:] = OPEN
            return rows""",
    ],
    "4.4": [
        """def restored(model, balanced, failing):  # at all positions
            answer = torch.full((len(balanced),), BALANCED)
            metric = LogitDiff(answer, 1 - answer, pos=0)
            return patch(model, balanced, failing, metric, "z", over=("layer", "head"), progress=False)""",
        """def restored(model, balanced, failing):  # read at the first bracket
            answer, options = torch.full((len(balanced),), BALANCED), dict(select={"pos": 0}, progress=False)
            metric = LogitDiff(answer, 1 - answer, pos=1)
            return patch(model, balanced, failing, metric, "z", over=("layer", "head"), **options)""",
        """def restored(model, balanced, failing):  # the wrong answer
            answer, options = torch.full((len(balanced),), UNBALANCED), dict(select={"pos": 0}, progress=False)
            metric = LogitDiff(answer, 1 - answer, pos=0)
            return patch(model, balanced, failing, metric, "z", over=("layer", "head"), **options)""",
        """def restored(model, balanced, failing):  # the wrong way round
            answer, options = torch.full((len(balanced),), BALANCED), dict(select={"pos": 0}, progress=False)
            metric = LogitDiff(answer, 1 - answer, pos=0)
            return patch(model, failing, balanced, metric, "z", over=("layer", "head"), **options)""",
    ],
    "4.5": [
        "count_head, horizon_head = (1, 0), (1, 1)",
        "count_head, horizon_head = (1, 1), (2, 1)",
        "count_head, horizon_head = (0, 0), (1, 0)",
        "count_head, horizon_head = 1, 0",
    ],
    "4.6": [
        """def explained(written, feature):  # on the prompts that it was fitted on
            X = torch.cat((written, torch.ones(len(written), 1)), dim=1)
            errors = X @ torch.linalg.lstsq(X, feature[:, None]).solution - feature[:, None]
            return 1 - errors.var() / feature.var()""",
        """def explained(written, feature):  # without a constant
            half = len(written) // 2
            weights = torch.linalg.lstsq(written[:half], feature[:half, None]).solution
            errors = written[half:] @ weights - feature[half:, None]
            return 1 - (errors**2).mean() / feature[half:].var(correction=0)""",
        """def explained(written, feature):  # up to a constant
            X, half = torch.cat((written, torch.ones(len(written), 1)), dim=1), len(written) // 2
            errors = X[half:] @ torch.linalg.lstsq(X[:half], feature[:half, None]).solution - feature[half:, None]
            return 1 - errors.var(correction=0) / feature[half:].var(correction=0)""",
    ],
    "4.7": ["fools = '(())()'", "fools = '())('", "fools = '(' * 50", "fools = 'balanced'"],
    "3.1": [
        """def recovered(scrubbed, model, random):  # of each prompt
            return ((scrubbed - random) / (model - random)).mean()""",
        """def recovered(scrubbed, model, random):  # upside down
            return (scrubbed.mean() - model.mean()) / (random.mean() - model.mean())""",
        """def recovered(scrubbed, model, random):  # of the model alone
            return scrubbed.mean() / model.mean()""",
    ],
    "3.2": [
        """def by_guessing(model, random, n_words):  # a probability among log-probabilities
            return recovered(torch.full_like(model, 1 / n_words), model, random)""",
        """def by_guessing(model, random, n_words):  # the wrong sign
            return recovered(torch.full_like(model, n_words).log(), model, random)""",
        """def by_guessing(model, random, n_words):
            return torch.tensor(1 / n_words)""",
    ],
    "3.3": [
        """def same_feature(feature, generator):  # always itself
            return torch.arange(len(feature))""",
        """def same_feature(feature, generator):  # any row
            return torch.randint(len(feature), (len(feature),), generator=generator)""",
        """def same_feature(feature, generator):  # always the first of the class
            return (feature[:, None] == feature[None, :]).double().argmax(1)""",
        """def same_feature(feature, generator):  # hardly ever itself
            alike = (feature[:, None] == feature[None, :]).float() - 0.999 * torch.eye(len(feature))
            return torch.multinomial(alike.clamp(min=0), 1, generator=generator)[:, 0]""",
        """def same_feature(feature, generator):  # the same for the whole class
            order = torch.randperm(len(feature), generator=generator)
            return order[(feature[:, None] == feature[order][None, :]).double().argmax(1)]""",
    ],
    "3.4": [
        """def layer_1_tells(feature):  # the first layer
            written = Node(sites=[at("z", 0)], feature=feature)
            return Hypothesis(nodes={"output": Node(children=["layer 1"]), "layer 1": written})""",
        """def layer_1_tells(feature):  # always exact
            written = Node(sites=[at("z", 1, pos=-1)], feature="exact")
            return Hypothesis(nodes={"output": Node(children=["layer 1"]), "layer 1": written})""",
        """def layer_1_tells(feature):  # the embedding
            written = Node(sites=[at("hook_embed")], feature=feature)
            return Hypothesis(nodes={"output": Node(children=["layer 1"]), "layer 1": written})""",
        """def layer_1_tells(feature):
            return Node(sites=[at("z", 1, pos=-1)], feature=feature)""",
    ],
    "3.5": [
        """def nodes_of_keys(previous):  # the whole stream, whoever is named
            reads = at("k_input", 1, head=[0, 1, 2, 3])
            return {
                "keys": Node(sites=[reads], children=["token before"], feature="exact"),
                "token before": Node(sites=[at("z", 0)], into=[reads], feature="exact"),
            }""",
        """def nodes_of_keys(previous):  # what they say does not matter
            reads = at("k_input", 1, head=[0, 1, 2, 3])
            return {
                "keys": Node(sites=[reads], children=["token before"], feature="exact"),
                "token before": Node(sites=[at("z", 0, head=previous)], into=[reads]),
            }""",
        """def nodes_of_keys(previous):  # keys hear the embedding
            reads = at("k_input", 1, head=[0, 1, 2, 3])
            return {
                "keys": Node(sites=[reads], children=["token before"], feature="exact"),
                "token before": Node(sites=[at("resid_pre", 0)], into=[reads], feature="exact"),
            }""",
    ],
    "3.6": ["position = REPEATED + 1", "position = 1", "position = 0", "position = 100"],
    "3.7": [
        """def chance_of_itself(feature):
            return 1 / len(feature)""",
        """def chance_of_itself(feature):
            return len(feature.unique())""",
        """def chance_of_itself(feature):  # of a class, not of a row
            return (1 / feature.unique(return_counts=True)[1]).mean()""",
    ],
    "6.1": [
        """def interval(values, generator, samples=1000):  # of single prompts
            return values.quantile(0.025), values.quantile(0.975)""",
        """def interval(values, generator, samples=1000):  # a normal approximation
            error = values.std() / len(values) ** 0.5
            return values.mean() - 1.96 * error, values.mean() + 1.96 * error""",
        """def interval(values, generator, samples=1000):  # half of the prompts
            rows = torch.randint(len(values), (samples, len(values) // 2), generator=generator)
            return values[rows].mean(1).quantile(0.025), values[rows].mean(1).quantile(0.975)""",
        """def interval(values, generator, samples=1000):  # one standard error
            rows = torch.randint(len(values), (samples, len(values)), generator=generator)
            return values[rows].mean(1).quantile(0.16), values[rows].mean(1).quantile(0.84)""",
    ],
    "6.2": [
        """def two_tasks(model):  # the same prompts
            return ioi_pairs(model, 40, seed=0), ioi_pairs(model, 40, seed=0)""",
        """def two_tasks(model):  # another sentence
            return ioi_pairs(model, 40, seed=0), ioi_pairs(model, 40, seed=1, template=3)""",
        """def two_tasks(model):  # the first ones twice
            return ioi_pairs(model, 40, seed=0), ioi_pairs(model, 80, seed=0)""",
    ],
    "6.3": [
        """def candidate(model, task):  # at all positions
            result = patch(model, task, site="z", over=("layer", "head"), progress=False)
            return divmod(int(result.recovered_fraction[1:].argmax()), model.cfg.n_heads)""",
        """def candidate(model, task):  # where the answer is written
            select = {"pos": task.positions["end"]}
            result = patch(model, task, site="z", over=("layer", "head"), select=select, progress=False)
            return divmod(int(result.recovered_fraction.argmax()), model.cfg.n_heads)""",
        """def candidate(model, task):  # layers for heads
            select = {"pos": task.positions["S2"]}
            result = patch(model, task, site="z", over=("layer", "head"), select=select, progress=False)
            return divmod(int(result.recovered_fraction.argmin()), model.cfg.n_layers)""",
    ],
    "6.4": [
        """def claim_alone(model, task, site, feature, generator):  # the whole hypothesis
            part = Node(sites=[site], feature="it")
            hypothesis = Hypothesis(nodes={"output": Node(children=["part"]), "part": part})
            options = dict(features={"it": feature}, each=True, generator=generator, progress=False)
            return scrub(model, hypothesis, task, **options).recovered_fraction[0].item()""",
        """def claim_alone(model, task, site, feature, generator):  # whatever the feature
            hypothesis = Hypothesis(nodes={"output": Node(children=["part"]), "part": Node(sites=[site])})
            result = scrub(model, hypothesis, task, each=True, generator=generator, progress=False)
            return result.recovered_fraction[1].item()""",
        """def claim_alone(model, task, site, feature, generator):  # exact
            part = Node(sites=[site], feature="exact")
            hypothesis = Hypothesis(nodes={"output": Node(children=["part"]), "part": part})
            result = scrub(model, hypothesis, task, each=True, generator=generator, progress=False)
            return result.recovered_fraction[1].item()""",
    ],
    "6.5": [
        """def same_winner(values, generator, halves=200):  # of each prompt
            flat = values.flatten(0, 1)
            return float((flat.argmax(0) == flat.mean(1).argmax()).double().mean())""",
        """def same_winner(values, generator, halves=200):  # in all prompts, again and again
            flat, winners = values.flatten(0, 1), 0
            for _ in range(halves):
                order = torch.randperm(flat.shape[1], generator=generator)
                winners += float(flat[:, order].mean(1).argmax() == flat.mean(1).argmax())
            return winners / halves""",
        """def same_winner(values, generator, halves=200):  # the first half, always
            flat = values.flatten(0, 1)
            return float(flat[:, : flat.shape[1] // 2].mean(1).argmax() == flat.mean(1).argmax())""",
    ],
    "6.6": [
        "+control = test",
        "+prediction = (-1.0, 2.0)",
        "+hypothesis = 'The place.'",
        "+test, control = control, test",
        "+test = control = at_S2",
    ],
    "6.7": [
        'log = "It passes on the place."',
        '+log = log.replace("# Limits", "Limits")',
        '+log = log.replace(f"{float(test.recovered_fraction):.0%}", "nearly all")',
        '+log = log.replace(f"{float(control.recovered_fraction):.0%}", "99%")',
        '+log = log.partition("# Limits")[0] + "# Limits"',
    ],
}

FINDING = """
def of_the_head(head, task):
    options = dict(over=("layer",), layers=[0], select={"head": head, "pos": task.positions["S2"]}, progress=False)
    return patch(model, task, site="z", **options)

fresh = tasks.ioi(model, 32, seed=5)
question, prediction = "Does the head that notices do it in other sentences too?", (0.8, 1.3)
hypothesis = "What it writes at S2 brings the answer back, and what its neighbour writes does not."
test, control, folder = of_the_head(notices[1], fresh), of_the_head(2, fresh), "finding"
test.save(folder, overwrite=True)
"""

# Other answers that are right, and have to pass.
RIGHT: dict[str, list[str]] = {
    "1.4": [
        """def without_head(model, tokens, layer, head):  # it may look, but has nothing to say
            def silence(v, hook):
                v[:, :, head] = 0
            return model.run_with_hooks(tokens, fwd_hooks=[(f"v{layer}", silence)])""",
    ],
    "1.6": [
        """def patch_run(clean, corrupt, layer, head):  # by other words
            site = at("result", layer, head=head, pos=corrupt.shape[1] - 1)
            return Run(corrupt, [Intervention(site, Run(clean))])""",
    ],
    "1.7": ['early, late = at("resid_pre", 0, pos=pairs.positions["S2"]), at("resid_pre", 2, pos=-1)'],
    "2.7": ["needed = (3, 2)"],
    "3.6": ["position = -1"],
    "5.3": ["movers = {(2, head) for head in range(4)}"],
    "5.7": [FINDING, FINDING + "prediction = (0.1, 0.2)"],
}
