__version__ = "0.1.0"

def __getattr__(name):
    "`clrepro.run`, imported when it is first asked for: torch takes seconds."
    if name == 'run':
        from clrepro.runs import run
        return run
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
