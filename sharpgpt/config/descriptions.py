"""The docstring under each setting, read from the source, so that its meaning stands once."""

import ast
import inspect
import textwrap


def setting_descriptions(cls: type) -> dict[str, str]:
    """Setting name -> its docstring, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    descriptions = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            descriptions[statement.target.id] = " ".join(str(following.value.value).split())
    return descriptions
