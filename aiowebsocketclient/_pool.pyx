# cython: language_level=3, nonecheck=True, embedsignature=False, binding=False, always_allow_keywords=False
"""The core of the pool, compiled: the same sources as ``_pool_py.py``, and what is C alone.

``_pool.pxd`` has the C types of what the included sources define.  C alone are the clock, what is
complete from the start, handles, and a caller's first steps: there the types' own slots are set, so
that nothing is made on the way to an idle connection.
"""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from cpython.exc cimport PyErr_Fetch, PyErr_Restore
from cpython.object cimport PyObject, PyObject_Call
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.time cimport monotonic

from asyncio.events import _get_running_loop

from ._plain import NO_HEADERS, ROOM, UNSET

IMPLEMENTATION = "c"


cdef extern from "Python.h":
    int PyObject_GenericSetDict(object obj, object value, void *context) except -1
    unsigned long PyThread_get_thread_ident()
    object copy_context "PyContext_CopyCurrent"()
    # Of a dict of any kind: to ask an OrderedDict costs three calls.
    Py_ssize_t size "PyDict_GET_SIZE"(object mapping) noexcept

    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT

    PySendResult PyIter_Send(object steps, object value, PyObject **result) except PYGEN_ERROR

    ctypedef PySendResult (*sendfunc)(
        PyObject *this, PyObject *value, PyObject **result
    ) except PYGEN_ERROR
    ctypedef PyObject *(*iternextfunc)(PyObject *this) except NULL

    ctypedef object (*unaryfunc)(object this)

    ctypedef object (*nullary "PyCFunction")(PyObject *this, PyObject *nothing)
    nullary PyCFunction_GetFunction(object function) except NULL
    PyObject *PyCFunction_GetSelf(object function) except? NULL
    int PyCFunction_GetFlags(object function) except -1
    bint PyCFunction_Check(object function) noexcept
    int METH_NOARGS

    ctypedef struct PyAsyncMethods:
        unaryfunc am_await
        sendfunc am_send

    ctypedef void (*destructor)(PyObject *this) noexcept
    ctypedef int (*visitproc)(PyObject *thing, void *arg) noexcept

    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject *cls, tuple args, void *kwargs)
        PyAsyncMethods *tp_as_async
        iternextfunc tp_iternext
        destructor tp_dealloc
        destructor tp_finalize
        int (*tp_clear)(PyObject *this) noexcept
        int (*tp_traverse)(PyObject *this, visitproc visit, void *arg) noexcept
        void (*tp_free)(void *this) noexcept

    PyTypeObject *Py_TYPE(PyObject *this) noexcept
    void PyObject_GC_UnTrack(void *this) noexcept


cdef extern from *:
    """
    static void warn_unawaited(void) {
        PyObject *kind, *error, *traceback;
        PyErr_Fetch(&kind, &error, &traceback);
        if (PyErr_WarnEx(PyExc_RuntimeWarning, "ws_connect() was never awaited", 2) < 0)
            PyErr_WriteUnraisable(NULL);
        PyErr_Restore(kind, error, traceback);
    }
    """
    void warn_unawaited()


cdef extern from *:
    """
    /* Leave an object without a dict; where one is asked for, there is an empty one. */
    static void drop_dict(PyObject *object) {
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject_ClearManagedDict(object);
    #elif PY_VERSION_HEX >= 0x030C0000
        _PyObject_ClearManagedDict(object);
    #else
        PyObject **dict = _PyObject_GetDictPtr(object);
        if (dict != NULL)
            Py_CLEAR(*dict);
    #endif
    }
    """
    void drop_dict(object)


cdef extern from *:
    """
    #include <time.h>

    /* Linux has the time of its last tick at hand, which is a seventh of the price. */
    static int time_of_last_tick(double *seconds) {
    #ifdef CLOCK_MONOTONIC_COARSE
        struct timespec now;
        if (clock_gettime(CLOCK_MONOTONIC_COARSE, &now) == 0) {
            *seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
            return 1;
        }
    #endif
        return 0;
    }
    """
    bint time_of_last_tick(double *seconds)


cdef extern from *:
    """
    /* What an awaited object returns. Since CPython 3.12, "await" steps it by tp_iternext, so the
       result is the value of a StopIteration, of which only the value is looked at. To make one
       costs more than all the rest of a hit, so a few are kept, to be used again. */
    #if PY_VERSION_HEX >= 0x030C0000

    #define MOST_KEPT 16
    static PyObject *kept_results[MOST_KEPT];
    static int kept_count = 0;
    static destructor dealloc_result;

    static void keep_result(PyObject *self) {
        PyStopIterationObject *result = (PyStopIterationObject *)self;
        if (kept_count == MOST_KEPT || result->dict || result->notes || result->traceback
            || result->context || result->cause
            || !PyTuple_CheckExact(result->args) || PyTuple_GET_SIZE(result->args)) {
            /* It was caught, and is not as it was made. */
            dealloc_result(self);
            return;
        }
        PyObject_GC_UnTrack(self);
        /* It may be the last to refer to its value, whose end may make and drop others. */
        Py_CLEAR(result->value);
        if (kept_count == MOST_KEPT) {
            dealloc_result(self);
            return;
        }
        kept_results[kept_count++] = self;
    }

    static PyTypeObject ResultType = {
        PyVarObject_HEAD_INIT(NULL, 0)
        .tp_name = "StopIteration",
        .tp_basicsize = sizeof(PyStopIterationObject),
        .tp_dealloc = keep_result,
        .tp_flags = Py_TPFLAGS_DEFAULT,
        .tp_doc = "The result of ws_connect(), as the end of an iteration.",
    };

    static int ready_results(void) {
        PyTypeObject *base = (PyTypeObject *)PyExc_StopIteration;
        ResultType.tp_base = base;
        dealloc_result = base->tp_dealloc;
        return PyType_Ready(&ResultType);
    }

    /* Raise a StopIteration with this value. */
    static void raise_result(PyObject *value) {
        PyObject *self;
        if (kept_count) {
            self = kept_results[--kept_count];
            _Py_NewReference(self);
            PyObject_GC_Track(self);
        } else {
            PyObject *nothing = PyTuple_New(0);
            if (nothing == NULL)
                return;
            self = ResultType.tp_new(&ResultType, nothing, NULL);
            Py_DECREF(nothing);
            if (self == NULL)
                return;
        }
        Py_INCREF(value);
        Py_XSETREF(((PyStopIterationObject *)self)->value, value);
        PyErr_SetRaisedException(self);
    }

    #else

    static int ready_results(void) {
        return 0;
    }

    static void raise_result(PyObject *value) {
        PyErr_SetObject(PyExc_StopIteration, value);
    }

    #endif
    """
    int ready_results() except -1
    void raise_result(object value)


ready_results()


cdef extern from *:
    """
    /* Frames that may still be called. CPython 3.12 and later count those of C apart, and by the
       size of their stack from 3.14 on. */
    static int frames_left(void) {
    #if PY_VERSION_HEX < 0x030D0000
        PyThreadState *state = PyThreadState_Get();
    #else
        PyThreadState *state = PyThreadState_GetUnchecked();
    #endif
    #if PY_VERSION_HEX < 0x030C0000
        return state->recursion_remaining;
    #elif PY_VERSION_HEX < 0x030E0000
        return state->py_recursion_remaining < state->c_recursion_remaining
            ? state->py_recursion_remaining : state->c_recursion_remaining;
    #else
        return state->py_recursion_remaining;
    #endif
    }
    """
    int frames_left()


cdef class Done:
    """What is complete from the start: nothing to wait for, and nothing kept between two uses."""

    def __await__(self):
        return self

    def __iter__(self):
        # What __await__() returns is gone through by "yield from", too.
        return self

    def __next__(self):
        raise StopIteration

    def send(self, value):
        """End at once."""
        raise StopIteration

    def throw(self, typ, val=None, tb=None):
        """End with what is thrown."""
        # A traceback has no variables of what is compiled.
        raise typ if val is None else val

    def close(self):
        """Do nothing."""

    def __repr__(self):
        """Return the same as other completions do once they are complete."""
        return "<Completion done>"


cdef PySendResult _step_done(PyObject *this, PyObject *value, PyObject **result) noexcept:
    Py_INCREF(None)
    result[0] = <PyObject *> None
    return PYGEN_RETURN


cdef PyObject *_next_of_done(PyObject *this) noexcept:
    # The end of an iteration that returns nothing need not be raised.
    return NULL


(<PyTypeObject *> Done).tp_as_async.am_send = <sendfunc> _step_done
(<PyTypeObject *> Done).tp_iternext = <iternextfunc> _next_of_done

# What ``release()`` returns for a connection that is pooled.
DONE = Done()


# A protocol, which only type checkers need.
Lender = object

include "_lists.py"
include "_records.py"
include "_core.py"
include "_lending.py"


cdef destructor _tell_lost = (<PyTypeObject *> Handle).tp_finalize


cdef void _finalize_handle(PyObject *this) noexcept:
    """Do what ``__del__`` does, without its price where there is nothing to do."""
    if (<Handle> this)._owner is not None:
        _tell_lost(this)


cdef int finalize_quickly(type cls) except -1:
    """Give a class of handles this finalizer, unless it has a ``__del__`` of its own."""
    cdef PyTypeObject *kind = <PyTypeObject *> cls
    # A class inherits what Cython has made of __del__.
    if kind.tp_finalize == _tell_lost:
        kind.tp_finalize = _finalize_handle
    return 0


cpdef object lend(Express express, owner, Slot slot):
    """Return a new handle on the connection in ``slot``, which is parked no more."""
    cdef Parkable conn = slot.conn
    conn.parked = False
    # Not by the class's own: a subclass's may want aiohttp's arguments.
    cdef PyTypeObject *cls = <PyTypeObject *> express._cls
    cdef Handle handle = (<PyTypeObject *> Handle).tp_new(cls, (), NULL)
    PyObject_GenericSetDict(handle, conn.state, NULL)
    handle._express = express
    handle._slot = slot
    handle._reused = slot.uses > 1
    handle._owner = owner
    return handle


cpdef spend(Handle handle, dict state=None):
    """Take the connection from a handle, and leave it ``state`` for attributes."""
    handle._owner = None
    handle._spent = True
    if state is None:
        drop_dict(handle)
    else:
        PyObject_GenericSetDict(handle, state, NULL)


cdef double _latest = 0.0


cpdef double clock():
    """Return what the session takes for the time."""
    global _latest
    _latest = monotonic()
    return _latest


cdef double coarse_clock():
    """Return what is asked at each acquisition and release.

    It may be some milliseconds behind, but not behind what the other has said: what is idle stands
    in the order of its time.
    """
    cdef double now
    if not time_of_last_tick(&now):
        return monotonic()
    return now if now > _latest else _latest


cdef int _ROOM = ROOM


cpdef ensure_room(int frames=_ROOM):
    """Raise ``RecursionError`` where an operation might fail half way, before it has begun."""
    if frames_left() <= frames:
        raise RecursionError("too near to the recursion limit for an operation of the pool")


cdef bint is_on(dict state, str name) except -1:
    """Return whether a value is true; the value is only borrowed."""
    cdef PyObject *value = PyDict_GetItemWithError(state, name)
    if value is NULL:
        raise KeyError(name)
    if value is <PyObject *> False or value is <PyObject *> None:
        return False
    return value is <PyObject *> True or bool(<object> value)


cdef object _running_loop = _get_running_loop
cdef nullary _ask_for_running_loop = NULL
cdef PyObject *_asked = NULL
if PyCFunction_Check(_running_loop) and PyCFunction_GetFlags(_running_loop) == METH_NOARGS:
    _ask_for_running_loop = PyCFunction_GetFunction(_running_loop)
    _asked = PyCFunction_GetSelf(_running_loop)


cdef object running_loop():
    if _ask_for_running_loop is NULL:
        return _running_loop()
    return _ask_for_running_loop(_asked, NULL)


cdef object _Future = asyncio.Future


cdef object make_future(dict options):
    return PyObject_Call(_Future, (), options)


# What ``await`` steps, without a look at the names of the type.
cdef unaryfunc _steps_of_future = (<PyTypeObject *> _Future).tp_as_async.am_await


cdef unsigned long current_thread():
    return PyThread_get_thread_ident()


@cython.freelist(16)
@cython.final
cdef class Acquisition:
    """What ``ws_connect`` returns: a coroutine to asyncio, and an asynchronous context manager.

    It goes by :class:`Express` where that is usable, and does itself what :meth:`Express.wait` does
    for a caller that waits once and is served, which saves a coroutine; for all else it runs that,
    or the owner's ``_acquire``.
    """

    # None: hooks run on the connection before it goes out or after it comes back.
    cdef Express _express
    cdef Route _route
    # A caller that waits without a coroutine: then the steps are those of its future.
    cdef Caller _caller
    cdef object _owner, _acquire_timeout, _handle, _steps
    cdef bint _begun, _is_finalized

    def __init__(self, Express express, owner, Route route not None, acquire_timeout):
        self._express = express
        self._owner = owner
        self._route = route
        self._acquire_timeout = acquire_timeout

    def __await__(self):
        # Here too, as the steps of one that waits do not tell who goes by them.
        self._check_begun()
        return self

    def __iter__(self):
        # As that of Done.
        return self

    def __next__(self):
        return self.send(None)

    cdef int _check_begun(self) except -1:
        if self._begun:
            raise RuntimeError(
                "the result of ws_connect() can be awaited only once: call it again for each use"
            )
        return 0

    @property
    def __name__(self):
        # For the repr of tasks.
        return "ws_connect"

    def send(self, value):
        """Step it, as ``asyncio.Task`` does."""
        cdef PyObject *result
        if value is not None and not self._begun:
            raise TypeError("can't send non-None value to a just-started coroutine")
        how = _step_acquisition(<PyObject *> self, <PyObject *> value, &result)
        step = <object> result
        Py_DECREF(step)
        if how == PYGEN_RETURN:
            raise StopIteration(step)
        return step

    def throw(self, typ, val=None, tb=None):
        """Throw into it, as ``asyncio.Task`` does on cancellation."""
        if self._steps is None:
            # It has ended, or has not begun.
            self._check_begun()
            self._begun = True
            self._steps = self._owner._acquire(self._route, self._acquire_timeout)
        try:
            return self._steps.throw(typ if val is None else val)
        except BaseException as error:
            if self._caller is None and isinstance(error, StopIteration):
                # A check was told to stop, and something else could be had.
                self._handle = error.value
            self._give_up()
            raise

    def close(self):
        """End it where it stands, or before it began."""
        self._begun = True
        if self._caller is None and self._steps is not None:
            self._steps.close()
        self._give_up()

    cdef int _give_up(self) except -1:
        """End a wait without a coroutine; nothing more can be had from it."""
        cdef Caller caller = self._caller
        if caller is not None:
            self._caller = None
            self._steps = None
            _end_wait(self._owner, caller)
        return 0

    def __del__(self):
        # For what is in a cycle, before its parts are taken from each other.
        self._is_finalized = True
        self._give_up()

    def __aenter__(self):
        return self

    def __aexit__(self, exc_type, exc_val, exc_tb):
        if exc_type is None and self._express is not None and self._express.plain_exit:
            return self._handle.release()
        return self._handle.__aexit__(exc_type, exc_val, exc_tb)


cdef int _end_wait(owner, Caller caller) except -1:
    caller.finish()
    owner._give_up(caller)
    return 0


cdef void _try_to_end_wait(owner, Caller caller) noexcept:
    """Do the same, and print what fails."""
    _end_wait(owner, caller)


cdef int _drop_reference(PyObject *thing, void *arg) noexcept:
    Py_DECREF(<object> thing)
    return 0


cdef destructor _dealloc_acquisition = (<PyTypeObject *> Acquisition).tp_dealloc


cdef void _end_acquisition(PyObject *this) noexcept:
    """Warn of what was never awaited, and end it.

    Not by ``__dealloc__``, before which exceptions are put aside.  Nor by ``__del__``, which the
    collector runs once in the life of an object, so what it has run for must not have another life
    by the free list.
    """
    cdef PyObject *kind
    cdef PyObject *error
    cdef PyObject *traceback
    # To warn runs Python code: a collection that found an object without references would drop it
    # once more.
    PyObject_GC_UnTrack(this)
    if not (<Acquisition> this)._begun:
        warn_unawaited()
    if (<Acquisition> this)._caller is not None:
        PyErr_Fetch(&kind, &error, &traceback)
        _try_to_end_wait((<Acquisition> this)._owner, (<Acquisition> this)._caller)
        PyErr_Restore(kind, error, traceback)
    if (<Acquisition> this)._is_finalized:
        # To clear leaves None in each field, which has to be counted until CPython 3.12.
        Py_TYPE(this).tp_clear(this)
        Py_TYPE(this).tp_traverse(this, _drop_reference, NULL)
        Py_TYPE(this).tp_free(this)
    else:
        _dealloc_acquisition(this)


(<PyTypeObject *> Acquisition).tp_dealloc = _end_acquisition


cdef PySendResult _step_acquisition(
    PyObject *this, PyObject *value, PyObject **result
) except PYGEN_ERROR:
    """Go on to the next suspension, or to the end, with nothing made on the way to an idle one."""
    cdef Acquisition self = <Acquisition> this
    cdef Express express
    cdef Caller caller
    cdef PySendResult how
    # Asked for together with an error; a debug build of CPython looks.
    result[0] = NULL
    if self._caller is not None:
        return _step_wait(self, value, result)
    if self._steps is None:
        self._check_begun()
        self._begun = True
        express = self._express
        if express is not None and express.is_usable():
            self._handle = express.acquire(self._owner, self._route)
            if self._handle is not None:
                Py_INCREF(self._handle)
                result[0] = <PyObject *> self._handle
                return PYGEN_RETURN
            caller = express.line_up(self._owner, self._route, self._acquire_timeout)
            # What else a loop's future might do when it is stepped, a coroutine knows.
            if (
                caller.slot is None
                and not caller.route.is_checked
                and type(caller.future) is _Future
            ):
                self._caller = caller
                return _step_wait(self, value, result)
            self._steps = express.wait(self._owner, caller, self._acquire_timeout)
        else:
            self._steps = self._owner._acquire(self._route, self._acquire_timeout)
    elif self._handle is not None:
        self._check_begun()
    how = PyIter_Send(self._steps, <object> value, result)
    if how == PYGEN_RETURN:
        self._handle = <object> result[0]
    return how


cdef PySendResult _step_wait(
    Acquisition self, PyObject *value, PyObject **result
) except PYGEN_ERROR:
    """Step a wait without a coroutine; whatever fails ends it."""
    cdef PySendResult how
    try:
        if self._steps is None:
            self._steps = _steps_of_future(self._caller.future)
        how = PyIter_Send(self._steps, <object> value, result)
        if how != PYGEN_RETURN:
            return how
        Py_DECREF(<object> result[0])
        result[0] = NULL
        return _end_of_wait(self, result)
    except BaseException:
        self._give_up()
        raise


cdef PySendResult _end_of_wait(Acquisition self, PyObject **result) except PYGEN_ERROR:
    """Hand out the connection that a caller was given."""
    cdef Caller caller = self._caller
    cdef Slot slot
    cdef PySendResult how
    end_if_held_back(caller)
    slot = self._express._pool.take(caller)
    if slot is None:
        self._steps = self._express.wait(self._owner, caller, self._acquire_timeout)
        self._caller = None
        how = PyIter_Send(self._steps, None, result)
        if how == PYGEN_RETURN:
            self._handle = <object> result[0]
        return how
    self._caller = None
    self._steps = None
    caller.finish()
    self._handle = hand_out(self._express, self._owner, slot)
    Py_INCREF(self._handle)
    result[0] = <PyObject *> self._handle
    return PYGEN_RETURN


cdef PyObject *_next_of_acquisition(PyObject *this) except NULL:
    """Do the same where it is iterated over, without the traceback that ``raise`` would make."""
    cdef PyObject *result
    if _step_acquisition(this, <PyObject *> None, &result) == PYGEN_RETURN:
        step = <object> result
        Py_DECREF(step)
        raise_result(step)
        return NULL
    return result


# Cython has no name for the first. It is what a task steps by, and ``await`` before CPython 3.12,
# where that goes by the second.
(<PyTypeObject *> Acquisition).tp_as_async.am_send = _step_acquisition
(<PyTypeObject *> Acquisition).tp_iternext = _next_of_acquisition


cdef object _UNSET = UNSET


cdef class SessionBase:
    """The call that acquires a connection, where all that it needs is known already.

    The rest of a session is Python, and is asked where something is not.
    """

    cdef public object _acquire_timeout, _loop
    # The types of arguments that are known by their hash.
    cdef public frozenset _atoms
    # The way of calls without hooks.
    cdef public Express _express
    # Targets of calls, by what tells these from each other.
    cdef public object _targets
    # Those of the client session, which may be changed at any time; and whether it has had some.
    cdef public object _default_headers
    cdef public bint _watches_headers

    def __cinit__(self):
        self._default_headers = NO_HEADERS

    @cython.binding(True)
    def ws_connect(self, url, *, reuse_key=None, acquire_timeout=_UNSET, **options):
        """Acquire a connection, as is declared at the session."""
        # What is bound like a function is called with anything, as where it is borrowed by another
        # class, and Cython does not look.
        if not isinstance(self, SessionBase):
            raise TypeError(f"ws_connect() needs a session, not {type(<object> self).__name__}")
        if acquire_timeout is _UNSET:
            acquire_timeout = self._acquire_timeout
        elif not is_seconds(acquire_timeout):
            self._check_timeout(acquire_timeout)
        return self._connect(url, reuse_key, acquire_timeout, options)

    cdef Acquisition _connect(self, url, reuse_key, acquire_timeout, dict options):
        """Go on with a valid timeout; ``options`` is None if there are none."""
        cdef Route route = None
        cdef PyObject *found
        cdef Acquisition acquisition
        if self._watches_headers or self._default_headers:
            self._forget_stale_targets()
        if options or reuse_key is not None:
            signature = signature_of(url, reuse_key, options or {}, self._atoms)
        else:
            signature = url if type(url) is str or type(url) in self._atoms else None
        if signature is not None:
            try:
                found = PyDict_GetItemWithError(self._targets, signature)
                if found is not NULL:
                    route = <Route> found
            except TypeError:
                # Something in it has no hash.
                signature = None
        if route is None:
            route = self._resolve_anew(signature, url, options or {}, reuse_key)
        acquisition = Acquisition.__new__(Acquisition)
        acquisition._express = self._express if route.is_direct else None
        acquisition._owner = self
        acquisition._route = route
        acquisition._acquire_timeout = acquire_timeout
        return acquisition


cdef object _connect_plainly(object this, object url):
    """Do what ``ws_connect(url)`` does, without a dict of the options that it does not have."""
    cdef SessionBase self
    if not isinstance(this, SessionBase):
        raise TypeError(f"ws_connect() needs a session, not {type(this).__name__}")
    self = <SessionBase> this
    return self._connect(url, None, self._acquire_timeout, None)


cdef extern from *:
    """
    static PyObject *(*connect_plainly)(PyObject *, PyObject *);
    static vectorcallfunc connect_with_options;

    static PyObject *connect(
        PyObject *function, PyObject *const *args, size_t count, PyObject *names
    ) {
        if (names == NULL && PyVectorcall_NARGS(count) == 2)
            return connect_plainly(args[0], args[1]);
        return connect_with_options(function, args, count, names);
    }

    /* Let a function of Cython's take a call without options by a way of its own. */
    static void connect_by(PyObject *function, PyObject *(*plainly)(PyObject *, PyObject *)) {
        if (Py_TYPE(function)->tp_vectorcall_offset == offsetof(PyCFunctionObject, vectorcall)) {
            connect_plainly = plainly;
            connect_with_options = ((PyCFunctionObject *)function)->vectorcall;
            ((PyCFunctionObject *)function)->vectorcall = connect;
        }
    }
    """
    void connect_by(object function, object (*plainly)(object, object))


connect_by(SessionBase.ws_connect, _connect_plainly)
