"""What of a model may be switched while it is used: what a caching run collects by itself, and whether keys are shared.

No switch is needed to hook anything; `run_with_cache(names_filter=...)` collects whatever it names.
"""

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked_methods
from interp_hooks.hooks.scopes import refuse_while_others_run
from interp_hooks.model.grouping import regroup, ungroup
from interp_hooks.model.network import Network

COLLECTS = {  # what a caching run without a filter collects only where the config says so
    "use_attn_result": ("hook_result",),
    "use_split_qkv_input": ("hook_q_input", "hook_k_input", "hook_v_input"),
    "use_attn_in": ("hook_attn_in",),
    "use_hook_mlp_in": ("hook_mlp_in",),
}


@checked_methods
class Switches(Network):
    """The `set_` methods of a model. Without state: what they set is in its config."""

    def set_as_configured(self) -> None:
        """Let caching runs collect what the config says."""
        for flag in COLLECTS:
            if getattr(self.cfg, flag):
                self._collect(flag, True)

    def _collect(self, flag: str, collected: bool) -> None:
        points = [point for point in self.hook_points() if point.name.rpartition(".")[2] in COLLECTS[flag]]
        if collected and not points:
            raise BadInput(f"{flag}: this model has no {', '.join(COLLECTS[flag])}; hook_table() lists what it has")
        for point in points:
            point.collected = collected
        self._reconfigure(**{flag: collected})

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Whether a caching run without a filter collects what each head writes (`hook_result`)."""
        self._collect("use_attn_result", use_attn_result)

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Whether a caching run without a filter collects `hook_q_input`, `hook_k_input` and `hook_v_input`."""
        self._collect("use_split_qkv_input", use_split_qkv_input)

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Whether a caching run without a filter collects `hook_attn_in`, which grouped query attention lacks."""
        self._collect("use_attn_in", use_attn_in)

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Whether a caching run without a filter collects `hook_mlp_in`."""
        self._collect("use_hook_mlp_in", use_hook_mlp_in)

    def set_ungroup_grouped_query_attention(self, ungroup_grouped_query_attention: bool) -> None:
        """Whether query heads that share keys and values get copies of their own, of weights and in hooks.

        The config's `n_key_value_heads` follows.

        Raises:
            BadInput: copies that have been edited differently and cannot be shared again; spliced modules, whose
                hook points this would change; layers that differ in how many heads of keys they have.
            HookConflict: a pass of another thread is running.
        """
        refuse_while_others_run(self, "grouped anew")
        self._refuse_spread("set_ungroup_grouped_query_attention")
        if self.splices:
            raise BadInput(f"hook points change their sizes: first remove() what is spliced in, {[*self.splices]}")
        if self.cfg.n_key_value_heads_layers:
            raise BadInput("the number of heads of keys and values differs from layer to layer in this model")
        heads, groups = self.cfg.n_heads, self.cfg.n_key_value_heads
        if ungroup_grouped_query_attention and groups != heads:
            ungroup(self.blocks)
            self.n_groups = groups
            self._reconfigure(n_key_value_heads=heads)
        elif not ungroup_grouped_query_attention and self.n_groups is not None:
            regroup(self.blocks, self.n_groups)
            self._reconfigure(n_key_value_heads=self.n_groups)
            self.n_groups = None
        self.setup()
