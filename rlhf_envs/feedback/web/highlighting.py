"""Colour code: Pygments finds the tokens, and the page has a few classes for them."""

from __future__ import annotations

from collections.abc import Callable

from .nodes import Node, Nodes, node

__all__ = ["highlight"]

LONGEST = 20_000  # characters of a block. A longer one has no colours.

# Languages whose lexers are plain and quick. A block that names another has no colours.
_LEXERS = {
    name: f"pygments.lexers.{module}:{lexer}"
    for names, module, lexer in (
        ("python py python3", "python", "PythonLexer"),
        ("javascript js jsx", "javascript", "JavascriptLexer"),
        ("typescript ts tsx", "javascript", "TypeScriptLexer"),
        ("json", "data", "JsonLexer"),
        ("yaml yml", "data", "YamlLexer"),
        ("toml", "configs", "TOMLLexer"),
        ("ini cfg", "configs", "IniLexer"),
        ("bash sh shell zsh", "shell", "BashLexer"),
        ("powershell ps1", "shell", "PowerShellLexer"),
        ("sql", "sql", "SqlLexer"),
        ("c h", "c_cpp", "CLexer"),
        ("cpp c++ cc hpp", "c_cpp", "CppLexer"),
        ("csharp cs c#", "dotnet", "CSharpLexer"),
        ("java", "jvm", "JavaLexer"),
        ("kotlin kt", "jvm", "KotlinLexer"),
        ("scala", "jvm", "ScalaLexer"),
        ("go golang", "go", "GoLexer"),
        ("rust rs", "rust", "RustLexer"),
        ("ruby rb", "ruby", "RubyLexer"),
        ("php", "php", "PhpLexer"),
        ("swift", "objective", "SwiftLexer"),
        ("r", "r", "SLexer"),
        ("julia jl", "julia", "JuliaLexer"),
        ("haskell hs", "haskell", "HaskellLexer"),
        ("lua", "scripting", "LuaLexer"),
        ("perl pl", "perl", "PerlLexer"),
        ("html xml svg", "html", "HtmlLexer"),
        ("css", "css", "CssLexer"),
        ("diff patch", "diff", "DiffLexer"),
        ("latex tex", "markup", "TexLexer"),
        ("dockerfile docker", "configs", "DockerLexer"),
        ("makefile make", "make", "MakefileLexer"),
    )
    for name in names.split()
}

# Beginnings of Pygments' short names: the first that fits counts.
_CLASSES = (
    ("c", "comment"),
    ("kc", "builtin"),
    ("k", "keyword"),
    ("ow", "keyword"),
    ("s", "string"),
    ("m", "number"),
    ("nb", "builtin"),
    ("nt", "keyword"),
    ("nf", "name"),
    ("nc", "name"),
    ("nd", "name"),
    ("o", "operator"),
    ("gi", "string"),
    ("gd", "comment"),
)


def highlight(code: str, language: str, check: Callable[[], None]) -> Nodes:
    """Return code as texts and spans with one of the classes `nodes.CODE`; as it is if the language is not known.

    Args:
        code: no character of it is lost or changed.
        language: as it stands after the fence.
        check: called at every token. It raises when the time is over.
    """
    place = _LEXERS.get(language.lower())
    if place is None or len(code) > LONGEST:
        return [code]
    from importlib import import_module

    from pygments.token import STANDARD_TYPES

    module, _, name = place.partition(":")
    lexer = getattr(import_module(module), name)()
    made: Nodes = []
    last: Node = None
    for _, kind, text in lexer.get_tokens_unprocessed(code):  # which, unlike get_tokens, changes nothing
        check()
        short = STANDARD_TYPES.get(kind, "")
        found = next((ours for begin, ours in _CLASSES if short.startswith(begin)), "")
        if last is not None and found == last[0]:
            last[1].append(text)
        else:
            last = (found, [text])
            made.append(last)
    pieces = [("".join(texts), kind) for kind, texts in made]
    if "".join(text for text, _ in pieces) != code:
        return [code]
    return [node("span", [text], class_=f"code-{kind}") if kind else text for text, kind in pieces if text]
