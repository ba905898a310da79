<?php
/**
 * Functions of a PHP worker for the tests: php peers.php host:port
 *
 * The worker of the examples says why it fails; this one does what else a PHP worker may do.
 */

declare(strict_types=1);

$worker = new GearmanWorker();
[$host, $port] = explode(':', $argv[1]);
$worker->addServer($host, (int) $port);
$worker->addFunction('php_fails', function (GearmanJob $job): void {
    $job->sendFail();
});
$worker->addFunction('php_streams', function (GearmanJob $job): string {
    foreach ([1, 2, 3] as $step) {
        $job->sendStatus($step, 3);
        $job->sendData("part $step;");
        $job->sendWarning("warning $step;");
    }
    return json_encode(json_decode($job->workload(), true));
});
$worker->addFunction('php_answers_nonsense', fn(GearmanJob $job): string => '{"this is": no JSON');
$worker->addFunction('php_returns_nothing', function (GearmanJob $job): void {
});
while (@$worker->work() || $worker->returnCode() === GEARMAN_TIMEOUT) {
    // until the job server goes away
}
