"""Write a function for the processor's vector units in Python, compile it by LLVM (llvmlite), run it on all cores.

`Value` is what an instruction gives: an index, or a vector of float32 with one number for each lane. Python's operators
on values write instructions, so that arithmetic made for numbers (`mammo_ml.models.straight_line_dft`) writes its own
program. Python's loops are unrolled; a loop of the program is `SimdFunction.loop`.
"""

import ctypes
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import torch
from llvmlite import ir

FLOAT, INDEX, LANE = ir.FloatType(), ir.IntType(64), ir.IntType(32)
FLAGS = ("contract", "reassoc", "nsz")
"""Products and sums may be fused and reordered, as in a matrix product."""
CODE_GENERATION_LEVEL = 1
"""Straight-line programs gain nothing from the higher ones, which take longer."""


class Value:
    """The result of an instruction; with Python's numbers, 0 and 1 take none."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder, self.ir = builder, value
        self.is_index = value.type == INDEX

    def _constant(self, number: float) -> "Value":
        if self.is_index:
            return Value(self.builder, ir.Constant(INDEX, int(number)))
        single = ir.Constant(FLOAT, ctypes.c_float(number).value)
        return Value(self.builder, ir.Constant(self.ir.type, [single] * self.ir.type.count))

    def _apply(self, instruction: str, other: "Value | float") -> "Value":
        right = other if isinstance(other, Value) else self._constant(other)
        if self.is_index:
            return Value(self.builder, getattr(self.builder, instruction)(self.ir, right.ir))
        return Value(self.builder, getattr(self.builder, f"f{instruction}")(self.ir, right.ir, flags=FLAGS))

    def __add__(self, other: "Value | float") -> "Value":
        return self if _is_number(other, 0) else self._apply("add", other)

    __radd__ = __add__

    def __sub__(self, other: "Value | float") -> "Value":
        return self if _is_number(other, 0) else self._apply("sub", other)

    def __rsub__(self, other: float) -> "Value":
        negative: Value = self * -1
        return negative + other

    def __mul__(self, other: "Value | float") -> Any:
        if _is_number(other, 0):
            return 0
        if _is_number(other, 1):
            return self
        if _is_number(other, -1) and not self.is_index:
            return Value(self.builder, self.builder.fneg(self.ir, flags=FLAGS))
        return self._apply("mul", other)

    __rmul__ = __mul__


def _is_number(value: object, number: int) -> bool:
    return isinstance(value, int | float) and value == number


class SimdFunction:
    """A function that does items 0, 1, … of some work, as it is written.

    Args:
        lanes: how many float32 a vector holds; more than the processor's become several instructions.
        arrays: names of the arguments that point to float32.
        tables: names of the arguments that point to pointers to float32.
        room: how many float32 each thread needs for itself.
    """

    NEXT, END, THREADS, ROOM, ARGUMENTS = range(5)
    """Where in the function's 64-bit integers what stands."""

    def __init__(self, lanes: int, *, arrays: Sequence[str], tables: Sequence[str], room: int) -> None:
        self.lanes = lanes
        self._vector = ir.VectorType(FLOAT, lanes)
        self._module = ir.Module()
        self._function = ir.Function(self._module, ir.FunctionType(ir.VoidType(), [INDEX.as_pointer()]), "function")
        self._builder = builder = ir.IRBuilder(self._function.append_basic_block())
        self._room_size = room
        self._arrays, self._tables = (
            {name: self._argument(place, kind) for place, name in enumerate(names, start)}
            for names, start, kind in (
                (arrays, self.ARGUMENTS, FLOAT.as_pointer()),
                (tables, self.ARGUMENTS + len(arrays), FLOAT.as_pointer().as_pointer()),
            )
        )
        thread = builder.atomic_rmw("add", self._place(self.THREADS), ir.Constant(INDEX, 1), "monotonic")
        start = builder.mul(thread, ir.Constant(INDEX, room))
        self.room = builder.gep(self._argument(self.ROOM, FLOAT.as_pointer()), [start])

    def _place(self, number: int) -> ir.Value:
        return self._builder.gep(self._function.args[0], [ir.Constant(INDEX, number)])

    def _argument(self, number: int, kind: ir.Type) -> ir.Value:
        return self._builder.inttoptr(self._builder.load(self._place(number)), kind)

    def array(self, name: str) -> ir.Value:
        """An argument that points to float32, for `load` and its like."""
        return self._arrays[name]

    def from_table(self, name: str, at: int, offset: Value) -> ir.Value:
        """One of the pointers to float32 of a table, moved on by an offset."""
        pointer = self._builder.load(self._builder.gep(self._tables[name], [ir.Constant(INDEX, at)]))
        return self._builder.gep(pointer, [offset.ir])

    def scratch(self, vectors: int) -> ir.Value:
        """Room for vectors, on the stack: for the first-level cache."""
        with self._builder.goto_entry_block():
            room = self._builder.alloca(self._vector, vectors)
            room.align = 64
        return self._builder.bitcast(room, FLOAT.as_pointer())

    def loop(self, start: Value | int, end: Value | int, body: Callable[[Value], None]) -> None:
        """Run the body for every index from start to end, which is not reached; at least once."""
        builder = self._builder
        first, last = (value.ir if isinstance(value, Value) else ir.Constant(INDEX, value) for value in (start, end))
        before, inside = builder.block, self._function.append_basic_block()
        builder.branch(inside)
        builder.position_at_end(inside)
        index = builder.phi(INDEX)
        index.add_incoming(first, before)
        body(Value(builder, index))
        following = builder.add(index, ir.Constant(INDEX, 1))
        index.add_incoming(following, builder.block)
        after = self._function.append_basic_block()
        builder.cbranch(builder.icmp_signed("<", following, last), inside, after)
        builder.position_at_end(after)

    def _address(self, array: ir.Value, at: Value | int, kind: ir.Type) -> ir.Value:
        offset = at.ir if isinstance(at, Value) else ir.Constant(INDEX, at)
        return self._builder.bitcast(self._builder.gep(array, [offset]), kind.as_pointer())

    def load(self, array: ir.Value, at: Value | int) -> Value:
        """The vector whose first number is at that index."""
        return Value(self._builder, self._builder.load(self._address(array, at, self._vector), align=4))

    def store(self, value: Value | int, array: ir.Value, at: Value | int) -> None:
        """Put a vector, or 0, there."""
        vector = value.ir if isinstance(value, Value) else self._zero()
        self._builder.store(vector, self._address(array, at, self._vector), align=4)

    def spread(self, array: ir.Value, at: Value | int) -> Value:
        """The number at that index in every lane."""
        number = self._builder.load(self._address(array, at, FLOAT), align=4)
        nothing = ir.Constant(self._vector, ir.Undefined)
        first = self._builder.insert_element(nothing, number, ir.Constant(LANE, 0))
        return Value(self._builder, self._builder.shuffle_vector(first, nothing, _lanes([0] * self.lanes)))

    def transposed(self, vectors: Sequence[Value]) -> list[Value]:
        """As many vectors as there are lanes: lane i of the j-th is lane j of the i-th."""
        found = [vector.ir for vector in vectors]
        bit = 1
        while bit < self.lanes:
            # Where a lane's number and a vector's differ in this bit, they change places.
            kept = _lanes([lane + self.lanes - bit if lane & bit else lane for lane in range(self.lanes)])
            moved = _lanes([lane + self.lanes if lane & bit else lane + bit for lane in range(self.lanes)])
            for low in (number for number in range(self.lanes) if not number & bit):
                pair = found[low], found[low + bit]
                found[low] = self._builder.shuffle_vector(*pair, kept)
                found[low + bit] = self._builder.shuffle_vector(*pair, moved)
            bit *= 2
        return [Value(self._builder, value) for value in found]

    def sums(self, vectors: Sequence[Value | int]) -> Value:
        """The sums over the lanes of as many vectors as there are lanes."""
        nothing = Value(self._builder, self._zero())
        full = [vector if isinstance(vector, Value) else nothing for vector in vectors]
        first, *others = self.transposed(full)
        return sum(others, start=first)

    def _zero(self) -> ir.Constant:
        return ir.Constant(self._vector, [ir.Constant(FLOAT, 0)] * self.lanes)

    def compiled(self, item: Callable[[Value], None]) -> "CompiledFunction":
        """The function that does this for every item that no other thread has taken."""
        builder = self._builder
        ask, work, done = (self._function.append_basic_block() for _ in range(3))
        builder.branch(ask)
        builder.position_at_end(ask)
        taken = builder.atomic_rmw("add", self._place(self.NEXT), ir.Constant(INDEX, 1), "monotonic")
        builder.cbranch(builder.icmp_signed("<", taken, builder.load(self._place(self.END))), work, done)
        builder.position_at_end(work)
        item(Value(builder, taken))
        builder.branch(ask)
        builder.position_at_end(done)
        builder.ret_void()
        return CompiledFunction(str(self._module), self._room_size)


def _lanes(numbers: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(LANE, len(numbers)), list(numbers))


class CompiledFunction:
    """A compiled `SimdFunction`."""

    def __init__(self, text: str, room: int) -> None:
        module = llvm.parse_assembly(text)
        module.verify()
        self._room = room
        self._engine = llvm.create_mcjit_compiler(module, _machine())  # the code lives as long
        self._engine.finalize_object()
        self._function = NATIVE(self._engine.get_function_address("function"))

    def __call__(self, items: int, *arguments: int) -> None:
        """Do all items, on as many threads as torch has.

        Args:
            items: how many there are.
            arguments: addresses of the arrays, then of the tables.
        """
        # As many as torch has, also where there are fewer items: OpenMP would end the others, and start them again.
        threads = torch.get_num_threads()
        rooms = torch.empty(threads, self._room, dtype=torch.float32, device="cpu")
        data = (ctypes.c_int64 * (SimdFunction.ARGUMENTS + len(arguments)))(0, items, 0, rooms.data_ptr(), *arguments)
        if threads == 1:
            self._function(data)
        elif parallel := _parallel():
            parallel(self._function, data, threads, 0)
        else:
            _on_own_threads(lambda: self._function(data), threads)


NATIVE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def works() -> bool:
    """Whether programs can be compiled and run here; where they cannot, a warning says so once."""
    function = SimdFunction(4, arrays=("numbers",), tables=(), room=4)

    def double(item: Value) -> None:
        numbers = function.array("numbers")
        function.store(function.load(numbers, item) * 2, numbers, item)

    numbers = torch.ones(4, dtype=torch.float32, device="cpu")
    try:
        function.compiled(double)(1, numbers.data_ptr())
    except (OSError, RuntimeError) as error:
        warnings.warn(f"no programs can be compiled here ({error}): large kernels take longer", stacklevel=2)
        return False
    return bool((numbers == 2).all())


@cache
def _parallel() -> Any:
    """GNU's entry to the OpenMP library whose threads torch uses; None where there is none.

    After a part of work these wait for the next one without sleeping: threads of our own would take turns with them.
    """
    try:
        # What a library itself depends on is looked through as well.
        return getattr(ctypes.CDLL(f"{torch.__path__[0]}/lib/libtorch_cpu.so"), "GOMP_parallel", None)
    except OSError:  # another system, or a torch that is built otherwise
        return None


def _on_own_threads(work: Callable[[], None], count: int) -> None:
    """Do it on this thread and others; an interrupt waits for them, whose arrays would else be freed under them."""
    others = [threading.Thread(target=work) for _ in range(count - 1)]
    interrupt = None
    for thread in others:
        thread.start()
    work()
    for thread in others:
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt as raised:
                interrupt = raised
    if interrupt:
        raise interrupt


def _machine() -> llvm.TargetMachine:
    _initialise()
    features = llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=CODE_GENERATION_LEVEL
    )


@cache
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
