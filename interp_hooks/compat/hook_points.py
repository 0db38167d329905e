"""TransformerLens' hook point: functions may see its value converted, and be called once for each of several names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from interp_hooks.hooks import points
from interp_hooks.hooks.points import Direction, Hook, HookFn


class BaseTensorConversion:
    """What functions at a hook point see in place of its value, and how what they return is put back. Abstract.

    `input_filter` is applied to what is converted, `output_filter` to what that gave.
    """

    def __init__(
        self, input_filter: Callable[[Any], Any] | None = None, output_filter: Callable[[Any], Any] | None = None
    ) -> None:
        self.input_filter, self.output_filter = input_filter, output_filter

    def convert(self, input_value: Any, *full_context: Any) -> Any:
        """What a function sees."""
        given = input_value if self.input_filter is None else self.input_filter(input_value)
        converted = self.handle_conversion(given, *full_context)
        return converted if self.output_filter is None else self.output_filter(converted)

    def handle_conversion(self, input_value: Any, *full_context: Any) -> Any:
        """The conversion itself; a subclass says it."""
        raise NotImplementedError(f"{type(self).__name__} has to say what handle_conversion makes of a value")

    def revert(self, input_value: Any, *full_context: Any) -> Any:
        """What the pass goes on with, of what a function returned; by default the same."""
        return input_value


class _Named:
    """A hook point, under another name."""

    def __init__(self, point: points.HookPoint, name: str) -> None:
        self.point, self.name = point, name

    layer = points.HookPoint.layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.point, name)


class _AnyPoint(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return (cls is HookPoint and isinstance(instance, points.HookPoint)) or super().__instancecheck__(instance)


class HookPoint(points.HookPoint, metaclass=_AnyPoint):
    """A `HookPoint` with `enable_reshape`, and names that a function is told in place of the point's own.

    The conversion is that of functions attached from then on. A function that returns None has changed nothing.
    """

    hook_conversion: BaseTensorConversion | None = None

    def enable_reshape(self, hook_conversion: BaseTensorConversion | None = None) -> None:
        """Let functions see values converted, and revert what they return."""
        self.hook_conversion = hook_conversion

    def add_hook(
        self,
        hook: HookFn,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
        alias_names: Sequence[str] | None = None,
        *,
        watches: bool = False,
    ) -> Hook:
        """As `interp_hooks.hooks.points.HookPoint.add_hook`; called for each of `alias_names` in turn.

        Raises:
            BadInput, HookConflict: as there.
        """
        fn = hook
        if alias_names is not None or self.hook_conversion is not None:
            fn = self._adapted(hook, [self] if alias_names is None else [_Named(self, name) for name in alias_names])
        return super().add_hook(fn, dir, is_permanent, level, prepend, watches=watches)

    def _adapted(self, fn: HookFn, named: Sequence[Any]) -> HookFn:
        conversion = self.hook_conversion or _Same()

        def adapted(value: Any, hook: points.HookPoint) -> Any:
            shown, changed = conversion.convert(value), False
            for point in named:
                returned = fn(shown, hook=point)
                if returned is not None:
                    shown, changed = returned, True
            return conversion.revert(shown) if changed else None

        return adapted


class _Same(BaseTensorConversion):
    def handle_conversion(self, input_value: Any, *full_context: Any) -> Any:
        return input_value
