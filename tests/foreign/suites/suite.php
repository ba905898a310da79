<?php
/**
 * Every call of PHP's gearman extension, against one job server.
 *
 *     php suite.php host:port serve     serves the functions that the other mode calls
 *     php suite.php host:port call      runs all scenarios (or the one that is named), and writes what it saw as JSON
 *
 * Nothing is judged here: the test compares what was seen with what it expects. Handles and uniques that the job server
 * or the library makes up are only looked at, never shown.
 */

declare(strict_types=1);

[$host, $port] = explode(':', $argv[1]);
define('HOST', $host);
define('PORT', (int) $port);

/** A client of this job server. */
function client(bool $exceptions = false): GearmanClient
{
    $client = new GearmanClient();
    $client->addServer(HOST, PORT, $exceptions);
    $client->setTimeout(20000);
    return $client;
}

/** A worker of this job server, which gives up waiting after a while. */
function worker(int $timeout = 20000): GearmanWorker
{
    $worker = new GearmanWorker();
    $worker->addServer(HOST, PORT);
    $worker->setTimeout($timeout);
    return $worker;
}

/** The name of a return code, without its prefix. */
function code(int $code): string
{
    static $names = null;
    if ($names === null) {
        $names = [];
        foreach (['SUCCESS', 'IO_WAIT', 'TIMEOUT', 'WORK_DATA', 'WORK_WARNING', 'WORK_STATUS', 'WORK_EXCEPTION',
            'WORK_FAIL', 'NO_JOBS', 'NO_ACTIVE_FDS', 'NO_REGISTERED_FUNCTIONS', 'PAUSE', 'ERRNO', 'LOST_CONNECTION',
            'COULD_NOT_CONNECT', 'INVALID_FUNCTION_NAME', 'NO_SERVERS', 'JOB_EXISTS', 'UNKNOWN_STATE', 'NOT_CONNECTED',
            'SERVER_ERROR', 'ARGUMENT_TOO_LARGE'] as $name) {
            if (defined("GEARMAN_$name")) {
                $names[constant("GEARMAN_$name")] = $name;
            }
        }
    }
    return $names[$code] ?? "code $code";
}

/** Says whether this is a handle of a job server. */
function handle(mixed $handle): bool
{
    return is_string($handle) && (bool) preg_match('/^H:.*:\d+$/', $handle);
}

// --- what is called ---------------------------------------------------------------------------------------------

function serve(): void
{
    $worker = new GearmanWorker();
    $worker->addServer(HOST, PORT);
    $worker->setId('the-suite');
    $count = 0;
    $worker->addFunction('s_reverse', fn(GearmanJob $job): string => strrev($job->workload()));
    $worker->addFunction('s_describe', function (GearmanJob $job, ArrayObject $context): string {
        $context['calls']++;
        return json_encode([$job->functionName(), $job->workloadSize(), $job->unique(), handle($job->handle()),
            $context['calls'] > 0, $context['name']]);
    }, new ArrayObject(['calls' => 0, 'name' => 'context']));
    $worker->addFunction('s_streams', function (GearmanJob $job): string {
        $job->sendStatus(1, 2);
        $job->sendData('data 1');
        $job->sendWarning('warning');
        $job->sendData('data 2');
        $job->sendStatus(2, 2);
        return 'end';
    });
    $worker->addFunction('s_completes', function (GearmanJob $job): void {
        $job->sendComplete('by sendComplete');
    });
    $worker->addFunction('s_fails', function (GearmanJob $job): void {
        $job->sendFail();
    });
    $worker->addFunction('s_raises', function (GearmanJob $job): void {
        $job->sendException('what went wrong');
    });
    $worker->addFunction('s_returns_fail', function (GearmanJob $job): void {
        $job->setReturn(GEARMAN_WORK_FAIL);
    });
    $worker->addFunction('s_nothing', function (GearmanJob $job): void {
    });
    $worker->addFunction('s_counts', function (GearmanJob $job) use (&$count): string {
        usleep(100000); // long enough for a second caller to join
        return (string) ++$count;
    });
    $goes_on = [GEARMAN_TIMEOUT, GEARMAN_WORK_FAIL, GEARMAN_WORK_EXCEPTION];
    while (@$worker->work() || in_array($worker->returnCode(), $goes_on, true)) {
        // until the job server goes away
    }
}

// --- clients ----------------------------------------------------------------------------------------------------

/** One blocking call with everything that comes before its end. */
function one(string $method, string $function, string $workload = 'abc', ?string $unique = null, bool $listen = true): array
{
    $client = client($listen);
    $seen = [];
    do {
        $result = @($unique === null ? $client->$method($function, $workload)
            : $client->$method($function, $workload, $unique));
        $code = $client->returnCode();
        $seen[] = $code === GEARMAN_WORK_STATUS ? [code($code), array_map('intval', $client->doStatus())]
            : [code($code), $result];
    } while (in_array($code, [GEARMAN_WORK_DATA, GEARMAN_WORK_WARNING, GEARMAN_WORK_STATUS], true));
    return $seen;
}

$scenarios = [];

$scenarios['do'] = fn() => [
    one('doNormal', 's_reverse'), one('doHigh', 's_reverse'), one('doLow', 's_reverse'),
];
$scenarios['do with a unique'] = fn() => [
    one('doNormal', 's_describe', '12345', 'unique-1'), one('doHigh', 's_describe', '123', 'unique-2'),
    one('doLow', 's_describe', 'x', 'unique-3'),
];
$scenarios['do with progress'] = fn() => one('doNormal', 's_streams');
$scenarios['do that fails'] = fn() => [
    one('doNormal', 's_fails'), one('doNormal', 's_returns_fail'), one('doNormal', 's_raises'),
];
$scenarios['do without the exception handler'] = fn() => one('doNormal', 's_fails', listen: false);
$scenarios['do that completes'] = fn() => [one('doNormal', 's_completes'), one('doNormal', 's_nothing')];
$scenarios['do with all bytes'] = function () {
    $bytes = implode('', array_map('chr', range(0, 255)));
    $large = str_repeat($bytes, 8192);
    $client = client();
    return [
        $client->doNormal('s_reverse', $bytes) === strrev($bytes),
        md5($client->doNormal('s_reverse', $large)) === md5(strrev($large)),
    ];
};
$scenarios['several calls on one client'] = function () {
    $client = client(true);
    $seen = [];
    foreach (['s_reverse', 's_fails', 's_reverse', 's_raises', 's_reverse'] as $function) {
        $result = @$client->doNormal($function, 'ab');
        $seen[] = [code($client->returnCode()), $result];
    }
    return $seen;
};
$scenarios['enableExceptionHandler'] = function () {
    $client = client();
    $enabled = $client->enableExceptionHandler();
    @$client->doNormal('s_raises', 'x');
    return [$enabled, code($client->returnCode())];
};
$scenarios['background and its status'] = function () {
    $client = client();
    $seen = [];
    foreach (['doLowBackground', 'doBackground', 'doHighBackground'] as $method) {
        $handles[$method] = $client->$method('s_queue', $method, "queue-$method");
        $seen[] = [handle($handles[$method]), code($client->returnCode())];
    }
    $seen['queued'] = $client->jobStatus($handles['doBackground']);
    $seen['queued by unique'] = $client->jobStatusByUniqueKey('queue-doBackground');
    $worker = worker();
    $worker->register('s_queue');
    foreach (range(1, 3) as $_) {
        $job = $worker->grabJob();
        $seen[] = [$job->functionName(), $job->workload(), $job->unique(), $job->handle() === $handles[$job->workload()]];
        $job->sendStatus(3, 7);
        $worker->ping('the status is there');
        $seen[] = $client->jobStatus($job->handle());
        $seen[] = $client->jobStatusByUniqueKey($job->unique());
        $job->sendComplete('nobody hears this');
        $worker->ping('the end is there');
        $seen[] = $client->jobStatus($job->handle());
        unset($job); // before its worker is gone, or PHP crashes
    }
    $seen['of nothing'] = $client->jobStatusByUniqueKey('no-such-unique');
    return $seen;
};
$scenarios['background without a unique'] = function () {
    $client = client();
    $one = $client->doBackground('s_anonymous', '1');
    $two = $client->doBackground('s_anonymous', '2');
    $worker = worker();
    $worker->register('s_anonymous');
    $seen = [handle($one), $one !== $two];
    foreach (range(1, 2) as $_) {
        $job = $worker->grabJob();
        $seen[] = [$job->workload(), strlen($job->unique()) > 0];
        $job->sendComplete('');
        unset($job);
    }
    return $seen;
};
$scenarios['ping'] = function () {
    $client = client();
    return [$client->ping('hello'), $client->ping("with\0nul"), $client->ping(str_repeat('x', 100000))];
};
$scenarios['a server that is not there'] = function () {
    $client = new GearmanClient();
    try {
        $client->addServer(HOST, 1); // which asks for exceptions, so it connects
    } catch (GearmanException $error) {
        return $error->getMessage();
    }
    return 'connected';
};
$scenarios['servers of which one is away'] = function () {
    $client = new GearmanClient();
    try {
        $added = $client->addServers(HOST . ':' . PORT . ',' . HOST . ':1', false);
    } catch (GearmanException $error) {
        $added = $error->getMessage();
    }
    $client->setTimeout(20000);
    $worker = new GearmanWorker();
    $worker->addServers(HOST . ':' . PORT);
    return [$added, $worker->ping('x')];
};
$scenarios['a time that is over'] = function () {
    $client = client();
    $client->setTimeout(200);
    $result = @$client->doNormal('s_nobody', 'x');
    return [$client->timeout(), $result, code($client->returnCode()), $client->error() !== ''];
};
$scenarios['options'] = function () {
    $client = client();
    $seen = [$client->addOptions(GEARMAN_CLIENT_NON_BLOCKING), (bool) ($client->options() & GEARMAN_CLIENT_NON_BLOCKING)];
    array_push($seen, $client->removeOptions(GEARMAN_CLIENT_NON_BLOCKING),
        (bool) ($client->options() & GEARMAN_CLIENT_NON_BLOCKING));
    array_push($seen, $client->setOptions(GEARMAN_CLIENT_FREE_TASKS), $client->getErrno());
    array_push($seen, $client->setContext('of the client'), $client->context());
    return $seen;
};

/** A client that writes down all callbacks: the event, the task's context, and what came. */
function listening(array &$seen): GearmanClient
{
    $client = client(true);
    $note = function (string $event) use (&$seen) {
        return function (GearmanTask $task, mixed $context = null) use ($event, &$seen) {
            $seen[(string) $context][] = match ($event) {
                'created' => [$event, handle($task->jobHandle()), $task->functionName()],
                'status' => [$event, $task->taskNumerator(), $task->taskDenominator()],
                default => [$event, $task->data() ?: '', $task->dataSize()],
            };
            return GEARMAN_SUCCESS;
        };
    };
    $client->setCreatedCallback($note('created'));
    $client->setDataCallback($note('data'));
    $client->setWarningCallback($note('warning'));
    $client->setStatusCallback($note('status'));
    $client->setCompleteCallback($note('complete'));
    $client->setExceptionCallback($note('exception'));
    $client->setFailCallback($note('fail'));
    return $client;
}

$scenarios['tasks with all callbacks'] = function () {
    $seen = [];
    $client = listening($seen);
    $client->addTask('s_reverse', 'abc', 'normal');
    $client->addTaskHigh('s_reverse', 'def', 'high');
    $client->addTaskLow('s_reverse', 'ghi', 'low', 'a-unique');
    $client->addTask('s_streams', 'x', 'streams');
    $client->addTask('s_fails', 'x', 'fails');
    $client->addTask('s_raises', 'x', 'raises');
    $client->addTask('s_nothing', 'x', 'nothing');
    $ran = $client->runTasks();
    ksort($seen);
    return [$ran, code($client->returnCode()), $seen];
};
$scenarios['background tasks'] = function () {
    $seen = [];
    $client = listening($seen);
    $client->addTaskLowBackground('s_later', 'low', 'low', 'later-low');
    $client->addTaskBackground('s_later', 'normal', 'normal', 'later-normal');
    $client->addTaskHighBackground('s_later', 'high', 'high', 'later-high');
    $ran = $client->runTasks();
    ksort($seen);
    $worker = worker();
    $worker->register('s_later');
    $grabbed = [];
    foreach (range(1, 3) as $_) {
        $job = $worker->grabJob();
        $grabbed[] = [$job->workload(), $job->unique()];
        $job->sendComplete('');
        unset($job);
    }
    return [$ran, $seen, $grabbed];
};
$scenarios['the status of tasks'] = function () {
    $handle = client()->doBackground('s_status', '1', 'status-1');
    $worker = worker();
    $worker->register('s_status');
    $job = $worker->grabJob();
    $job->sendStatus(5, 9);
    $worker->ping('the status is there');
    $seen = [];
    $client = client();
    $client->setStatusCallback(function (GearmanTask $task, mixed $context) use (&$seen) {
        $seen[$context] = [$task->isKnown(), $task->isRunning(), $task->taskNumerator(), $task->taskDenominator()];
        return GEARMAN_SUCCESS;
    });
    // Kept, since PHP frees them too early otherwise.
    $tasks = [$client->addTaskStatus($handle, 'running'), $client->addTaskStatus('H:nobody:9', 'unknown')];
    $ran = $client->runTasks();
    $job->sendComplete('');
    unset($job, $tasks);
    ksort($seen);
    return [$ran, $seen];
};
$scenarios['callbacks that are cleared'] = function () {
    $seen = [];
    $client = listening($seen);
    $cleared = $client->clearCallbacks();
    $client->addTask('s_reverse', 'abc', 'normal');
    return [$cleared, $client->runTasks(), $seen];
};
$scenarios['a task and its accessors'] = function () {
    $seen = [];
    $client = client();
    $client->setCompleteCallback(function (GearmanTask $task) use (&$seen) {
        $seen = [$task->functionName(), $task->unique(), handle($task->jobHandle()), $task->data(), $task->dataSize(),
            $task->isKnown(), $task->isRunning(), $task->taskNumerator(), $task->taskDenominator(),
            code($task->returnCode())];
        return GEARMAN_SUCCESS;
    });
    $task = $client->addTask('s_reverse', 'abc', null, 'my-unique');
    $seen[] = $client->runTasks();
    unset($task); // before its client is gone, or PHP crashes
    return $seen;
};
$scenarios['tasks of one unique run once'] = function () {
    $seen = [];
    $client = listening($seen);
    $client->addTask('s_counts', 'x', 'first', 'same');
    $client->addTask('s_counts', 'x', 'second', 'same');
    $ran = $client->runTasks();
    $results = array_map(fn($events) => end($events), $seen);
    ksort($results);
    return [$ran, $results];
};
$scenarios['tasks that do not block'] = function () {
    $seen = [];
    $client = listening($seen);
    $client->addOptions(GEARMAN_CLIENT_NON_BLOCKING);
    $client->addTask('s_reverse', 'abc', 'first');
    $client->addTask('s_streams', 'abc', 'second');
    $turns = 0;
    while (@$client->runTasks() && $client->returnCode() === GEARMAN_IO_WAIT) {
        @$client->wait();
        if (++$turns > 1000) {
            return 'it never ended';
        }
    }
    ksort($seen);
    return [code($client->returnCode()), $seen];
};
$scenarios['a workload and a result in pieces'] = function () {
    $got = '';
    $client = client();
    $client->setOptions(GEARMAN_CLIENT_UNBUFFERED_RESULT);
    $client->setWorkloadCallback(fn(GearmanTask $task) => GEARMAN_SUCCESS);
    $client->setCompleteCallback(function (GearmanTask $task) use (&$got) {
        while (is_array($piece = @$task->recvData(4)) && $piece[0] > 0) {
            $got .= $piece[1];
        }
        return GEARMAN_SUCCESS;
    });
    $client->addTask('s_reverse', 'abcdefghij');
    $ran = @$client->runTasks();
    return [$ran, $got];
};

// --- workers ----------------------------------------------------------------------------------------------------

$scenarios['a worker that works'] = function () {
    $seen = [];
    $client = client();
    $worker = worker();
    $context = new ArrayObject(['calls' => 0]);
    $worker->addFunction('w_work', function (GearmanJob $job, ArrayObject $context) use (&$seen) {
        $context['calls']++;
        $seen[] = [$job->workload(), $job->workloadSize(), $job->unique(), $context['calls'], code($job->returnCode())];
        $seen[] = [$job->sendData('d'), $job->sendWarning('w'), $job->sendStatus(1, 2)];
        return 'done';
    }, $context, 10);
    $client->doBackground('w_work', 'one', 'w-1');
    $client->doBackground('w_work', 'two', 'w-2');
    foreach (range(1, 2) as $_) {
        $seen[] = [$worker->work(), code($worker->returnCode())];
    }
    return $seen;
};
$scenarios['ways to end a job'] = function () {
    $seen = [];
    $client = client();
    $worker = worker();
    $worker->addFunction('w_end', function (GearmanJob $job) use (&$seen) {
        $seen[$job->workload()] = match ($job->workload()) {
            'complete' => $job->sendComplete('x'),
            'fail' => $job->sendFail(),
            'exception' => $job->sendException('x'),
            'return' => $job->setReturn(GEARMAN_WORK_FAIL),
        };
    });
    foreach (['complete', 'fail', 'exception', 'return'] as $end) {
        $handle = $client->doBackground('w_end', $end, "w-end-$end");
        $worked = @$worker->work();
        $seen["$end: work()"] = [$worked, code($worker->returnCode())];
        $worker->ping('the end is there');
        $seen["$end: known"] = $client->jobStatus($handle)[0];
    }
    return $seen;
};
$scenarios['a worker that waits in vain'] = function () {
    $worker = worker(200);
    $worker->addFunction('w_vain', fn(GearmanJob $job) => '');
    $first = [@$worker->work(), code($worker->returnCode()), $worker->timeout()];
    client()->doBackground('w_vain', 'x', 'vain');
    $worker->setTimeout(20000);
    return [$first, [$worker->work(), code($worker->returnCode())]];
};
$scenarios['a worker that does not block'] = function () {
    $ran = [];
    $worker = worker();
    $worker->addOptions(GEARMAN_WORKER_NON_BLOCKING);
    $worker->addFunction('w_nonblocking', function (GearmanJob $job) use (&$ran) {
        $ran[] = $job->workload();
        return '';
    });
    $codes = [];
    $sent = false;
    for ($turns = 0; count($ran) < 2 && $turns < 2000; $turns++) {
        if (@$worker->work()) {
            continue;
        }
        $codes[code($worker->returnCode())] = true;
        if ($worker->returnCode() === GEARMAN_NO_JOBS && !$sent) {
            // Asleep now: two jobs are to wake it.
            client()->doBackground('w_nonblocking', '1', 'nb-1');
            client()->doBackground('w_nonblocking', '2', 'nb-2');
            $sent = true;
        }
        if (in_array($worker->returnCode(), [GEARMAN_IO_WAIT, GEARMAN_NO_JOBS], true)) {
            @$worker->wait();
        }
    }
    unset($codes['IO_WAIT']); // which comes or not, as the bytes do
    return [$ran, array_keys($codes)];
};
$scenarios['a worker without uniques'] = function () {
    $worker = worker();
    $seen = [(bool) ($worker->options() & GEARMAN_WORKER_GRAB_UNIQ)];
    $worker->removeOptions(GEARMAN_WORKER_GRAB_UNIQ);
    $worker->register('w_plain');
    client()->doBackground('w_plain', 'x', 'plain');
    $job = $worker->grabJob();
    $seen[] = [$job->workload(), $job->unique()];
    $job->sendComplete('');
    unset($job);
    $seen[] = $worker->setOptions(GEARMAN_WORKER_GRAB_UNIQ);
    return $seen;
};
$scenarios['abilities that come and go'] = function () {
    $client = client();
    $worker = worker(300);
    $ran = [];
    $note = function (GearmanJob $job) use (&$ran) {
        $ran[] = $job->workload();
        return '';
    };
    foreach (['a', 'b', 'c'] as $name) {
        $client->doBackground("w_$name", $name, "come-$name");
    }
    $seen = [$worker->addFunction('w_a', $note, null, 20), $worker->addFunction('w_b', $note), $worker->unregister('w_a')];
    $work = function () use ($worker, &$seen, &$ran) {
        $seen[] = [@$worker->work(), code($worker->returnCode()), $ran];
    };
    $work();
    $work();
    $seen[] = $worker->unregisterAll();
    $work();
    $worker->addFunction('w_a', $note);
    $worker->addFunction('w_c', $note);
    $worker->setTimeout(20000);
    $ran = [];
    @$worker->work();
    @$worker->work();
    sort($ran);
    return [...$seen, $ran];
};
$scenarios['a worker that goes away with its job'] = function () {
    client()->doBackground('w_gone', 'x', 'gone');
    $worker = worker();
    $worker->register('w_gone');
    $job = $worker->grabJob();
    unset($job, $worker);
    $worker = worker();
    $worker->register('w_gone');
    $job = $worker->grabJob();
    $seen = [$job->workload(), $job->unique(), $job->sendComplete('')];
    unset($job);
    return $seen;
};
$scenarios['a worker that pings'] = function () {
    $worker = worker();
    return [$worker->ping('hello'), $worker->setId('somebody'), $worker->getErrno(), $worker->error() ?: ''];
};
$scenarios['a worker without functions'] = function () {
    $worker = worker(200);
    return [@$worker->work(), code($worker->returnCode())];
};

if ($argv[2] === 'serve') {
    serve();
} else {
    error_reporting(E_ALL & ~E_DEPRECATED);
    $seen = [];
    foreach (isset($argv[3]) ? [$argv[3] => $scenarios[$argv[3]]] : $scenarios as $name => $run) {
        fwrite(STDERR, "$name\n");
        $seen[$name] = $run();
    }
    echo json_encode($seen, JSON_PRETTY_PRINT | JSON_INVALID_UTF8_SUBSTITUTE | JSON_THROW_ON_ERROR), "\n";
}
