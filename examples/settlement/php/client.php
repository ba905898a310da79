<?php
/**
 * Settles a merchant's orders from PHP, by a task that is written in Python.
 *
 *     php client.php [--server 127.0.0.1:4730] [--timeout 60] orders.csv|orders.json
 *     php client.php --background orders.csv      hands the job over and prints the id of its result
 *
 * Exit code 0 with the settlement as JSON on standard output; 1 with the reason on standard error.
 */

declare(strict_types=1);

require __DIR__ . '/common.php';

$options = getopt('', ['server:', 'timeout:', 'background'], $rest);
$path = $argv[$rest] ?? null;
if ($path === null) {
    fwrite(STDERR, "Name the file with the orders: php client.php orders.csv\n");
    exit(2);
}

try {
    $orders = read_orders($path);
    $client = new GearmanClient();
    connect($client, $options['server'] ?? '127.0.0.1:4730');
    $client->setTimeout(1000 * (int) ($options['timeout'] ?? 60));
    echo isset($options['background']) ? submit($client, $orders) : settle($client, $orders), "\n";
} catch (Exception $error) {
    fwrite(STDERR, $error->getMessage() . "\n");
    exit(1);
}

/** The answer of `calculate`, as the JSON text that the Python task returned. */
function settle(GearmanClient $client, array $orders): string
{
    // An answer is on its way through doNormal() as long as the code is one of the three "more to come".
    do {
        $answer = @$client->doNormal('calculate', json_encode($orders));
    } while (in_array($client->returnCode(), [GEARMAN_WORK_DATA, GEARMAN_WORK_STATUS, GEARMAN_WORK_WARNING], true));
    return match ($client->returnCode()) {
        GEARMAN_SUCCESS => $answer,
        GEARMAN_WORK_EXCEPTION => throw new RuntimeException('calculate raised ' . reason($client, $orders)),
        GEARMAN_WORK_FAIL => throw new RuntimeException('calculate failed, without a reason.'),
        GEARMAN_TIMEOUT => throw new RuntimeException('calculate gave no answer in time. Does a worker serve it?'),
        default => throw new RuntimeException('The job server cannot be used: ' . $client->error()),
    };
}

/**
 * What went wrong, in the task's own words. doNormal() says only that there was an exception, not which; the interface
 * for several tasks at once hands it over. So this calls the task again, which for pure arithmetic does no harm.
 */
function reason(GearmanClient $client, array $orders): string
{
    $reason = 'an exception that did not come again';
    $client->setExceptionCallback(function (GearmanTask $task) use (&$reason): int {
        $reason = $task->data();
        return GEARMAN_SUCCESS;
    });
    $client->addTask('calculate', json_encode($orders));
    @$client->runTasks();
    return $reason;
}

/**
 * Hands the job over without waiting. Plain JSON would do, but then nobody could ask for the result: an object with the
 * key "gtask" is gtask's own message in JSON, and gives the task an id. An id is 24 random hexadecimal digits and
 * 8 from the name of the function; as the job's unique it also lets a submission be repeated without harm.
 */
function submit(GearmanClient $client, array $orders): string
{
    $id = bin2hex(random_bytes(12)) . substr(hash('sha256', 'calculate'), 0, 8);
    $message = json_encode(['gtask' => 1, 'id' => $id, 'args' => [$orders]]);
    @$client->doBackground('calculate', $message, $id);
    if ($client->returnCode() !== GEARMAN_SUCCESS) {
        throw new RuntimeException('The job was not accepted: ' . $client->error());
    }
    return $id;
}
