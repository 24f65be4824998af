// Python in a thread that is not the process's main one, which comes in between: embedding FIRST OF_MAIN LAST.
// With one more argument the process's main thread has prepared Python, which takes it for its own main thread then.
#include <Python.h>
#include <pthread.h>

static char **programs;
static pthread_barrier_t turn;

static void *embed(void *failed)
{
    Py_Initialize();
    *(int *)failed |= PyRun_SimpleString(programs[0]);
    PyThreadState *state = PyEval_SaveThread();
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn);
    PyEval_RestoreThread(state);
    *(int *)failed |= PyRun_SimpleString(programs[2]);
    *(int *)failed |= Py_FinalizeEx();
    return NULL;
}

int main(int argc, char **argv)
{
    int failed = argc < 4;
    pthread_t thread;
    programs = argv + 1;
    PyPreConfig early;
    PyPreConfig_InitPythonConfig(&early);
    if (argc > 4) failed |= PyStatus_Exception(Py_PreInitialize(&early));
    if (failed || pthread_barrier_init(&turn, NULL, 2) || pthread_create(&thread, NULL, embed, &failed)) return 2;
    pthread_barrier_wait(&turn);
    PyGILState_STATE state = PyGILState_Ensure();
    int also = PyRun_SimpleString(programs[1]);
    PyGILState_Release(state);   // and with it this thread's PyThreadState
    pthread_barrier_wait(&turn);
    pthread_join(thread, NULL);
    return failed || also;
}
