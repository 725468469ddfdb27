from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExecRequest(_message.Message):
    __slots__ = ("command", "standard_input", "terminal_resize")
    class Command(_message.Message):
        __slots__ = ("name", "args", "interactive", "tty", "terminal_size", "detach", "env", "workdir")
        class EnvEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        NAME_FIELD_NUMBER: _ClassVar[int]
        ARGS_FIELD_NUMBER: _ClassVar[int]
        INTERACTIVE_FIELD_NUMBER: _ClassVar[int]
        TTY_FIELD_NUMBER: _ClassVar[int]
        TERMINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
        DETACH_FIELD_NUMBER: _ClassVar[int]
        ENV_FIELD_NUMBER: _ClassVar[int]
        WORKDIR_FIELD_NUMBER: _ClassVar[int]
        name: str
        args: _containers.RepeatedScalarFieldContainer[str]
        interactive: bool
        tty: bool
        terminal_size: TerminalSize
        detach: bool
        env: _containers.ScalarMap[str, str]
        workdir: str
        def __init__(self, name: _Optional[str] = ..., args: _Optional[_Iterable[str]] = ..., interactive: _Optional[bool] = ..., tty: _Optional[bool] = ..., terminal_size: _Optional[_Union[TerminalSize, _Mapping[str, object]]] = ..., detach: _Optional[bool] = ..., env: _Optional[_Mapping[str, str]] = ..., workdir: _Optional[str] = ...) -> None: ...
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    STANDARD_INPUT_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_RESIZE_FIELD_NUMBER: _ClassVar[int]
    command: ExecRequest.Command
    standard_input: IOChunk
    terminal_resize: TerminalSize
    def __init__(self, command: _Optional[_Union[ExecRequest.Command, _Mapping[str, object]]] = ..., standard_input: _Optional[_Union[IOChunk, _Mapping[str, object]]] = ..., terminal_resize: _Optional[_Union[TerminalSize, _Mapping[str, object]]] = ...) -> None: ...

class ExecResponse(_message.Message):
    __slots__ = ("exit", "standard_output", "standard_error")
    class Exit(_message.Message):
        __slots__ = ("code",)
        CODE_FIELD_NUMBER: _ClassVar[int]
        code: int
        def __init__(self, code: _Optional[int] = ...) -> None: ...
    EXIT_FIELD_NUMBER: _ClassVar[int]
    STANDARD_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    exit: ExecResponse.Exit
    standard_output: IOChunk
    standard_error: IOChunk
    def __init__(self, exit: _Optional[_Union[ExecResponse.Exit, _Mapping[str, object]]] = ..., standard_output: _Optional[_Union[IOChunk, _Mapping[str, object]]] = ..., standard_error: _Optional[_Union[IOChunk, _Mapping[str, object]]] = ...) -> None: ...

class TerminalSize(_message.Message):
    __slots__ = ("rows", "cols")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    cols: int
    def __init__(self, rows: _Optional[int] = ..., cols: _Optional[int] = ...) -> None: ...

class IOChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ResolveIPRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResolveIPResponse(_message.Message):
    __slots__ = ("ip",)
    IP_FIELD_NUMBER: _ClassVar[int]
    ip: str
    def __init__(self, ip: _Optional[str] = ...) -> None: ...
