<?php
/**
 * The task `send`, served by PHP: gets a settlement as JSON, mails it, answers the address it was sent to.
 *
 *     php send_worker.php [--server 127.0.0.1:4730] [--smtp 127.0.0.1:8025 | --folder DIR] [--function send]
 *
 * With --folder the mail is written to a file there, and no mail server is needed. Ends on SIGTERM and SIGINT,
 * after the job it is at.
 */

declare(strict_types=1);

require __DIR__ . '/common.php';
require __DIR__ . '/smtp.php';

const SENDER = 'settlements@market.example';
const AMOUNTS = ['gross', 'refunds', 'fees', 'vat', 'payout'];

$options = getopt('', ['server:', 'smtp:', 'folder:', 'function:']);
$smtp = $options['smtp'] ?? getenv('SETTLEMENT_SMTP') ?: '127.0.0.1:8025';
$folder = $options['folder'] ?? null;

$send = function (GearmanJob $job) use ($smtp, $folder): ?string {
    // An exception that leaves this function would end the whole worker, so each becomes the job's.
    try {
        $settlement = json_decode($job->workload(), true, 16, JSON_THROW_ON_ERROR);
        check($settlement);
        $to = strtolower($settlement['merchant']) . '@merchants.example';
        $mail = compose($settlement, $to, $job->workload());
        if ($folder !== null) {
            file_put_contents("$folder/{$settlement['merchant']}.eml", $mail);
        } else {
            send_mail($smtp, SENDER, $to, $mail);
        }
        return json_encode($to);
    } catch (Exception $error) {
        $job->sendException($error->getMessage());
        return null;
    }
};

$going = true;
pcntl_async_signals(true);
foreach ([SIGTERM, SIGINT] as $signal) {
    pcntl_signal($signal, function () use (&$going): void {
        $going = false;
    });
}

$worker = new GearmanWorker();
try {
    connect($worker, $options['server'] ?? '127.0.0.1:4730');
} catch (RuntimeException $error) {
    fwrite(STDERR, $error->getMessage() . "\n");
    exit(1);
}
$worker->setTimeout(500);
$worker->addFunction($options['function'] ?? 'send', $send);
while ($going) {
    @$worker->work();
    if (in_array($worker->returnCode(), [GEARMAN_COULD_NOT_CONNECT, GEARMAN_LOST_CONNECTION], true)) {
        usleep(500_000); // the job server is away; work() connects again
    }
}

/** Throws unless this is a settlement whose money is text. */
function check(mixed $settlement): void
{
    foreach (['merchant', 'first_day', 'last_day', 'orders', 'products', ...AMOUNTS] as $name) {
        if (!is_array($settlement) || !isset($settlement[$name])) {
            throw new RuntimeException("This is no settlement: it has no $name.");
        }
    }
    foreach ([$settlement, ...$settlement['products']] as $line) {
        foreach (AMOUNTS as $name) {
            if (!is_string($line[$name] ?? null) || !preg_match('/^-?\d+\.\d\d$/', $line[$name])) {
                throw new RuntimeException("The $name should be text such as \"12.50\".");
            }
        }
    }
}

/** The mail with a table of the products attached. The same settlement gives the same Message-ID. */
function compose(array $settlement, string $to, string $workload): string
{
    $who = $settlement['merchant'];
    $name = "settlement-$who-" . substr($settlement['last_day'], 0, 7) . '.csv';
    $rows = ['Product,Pieces,Gross,Refunds,Fees,VAT on fees,Payout'];
    foreach ($settlement['products'] as $line) {
        $rows[] = implode(',', [$line['product'], $line['quantity'], ...array_map(fn($part) => $line[$part], AMOUNTS)]);
    }
    $rows[] = implode(',', ['Total', '', ...array_map(fn($part) => $settlement[$part], AMOUNTS)]);
    $mark = 'part-' . substr(hash('sha256', $workload), 0, 24);
    return implode("\r\n", [
        'From: ' . SENDER,
        "To: $to",
        "Subject: Settlement $who: {$settlement['payout']} EUR",
        'Message-ID: <' . strtolower($who) . '.' . substr(hash('sha256', $workload), 0, 24) . '@market.example>',
        'MIME-Version: 1.0',
        "Content-Type: multipart/mixed; boundary=\"$mark\"",
        '',
        "--$mark",
        'Content-Type: text/plain; charset=utf-8',
        '',
        "Your {$settlement['orders']} orders from {$settlement['first_day']} to {$settlement['last_day']}:",
        "{$settlement['payout']} EUR will be paid to you.",
        "--$mark",
        "Content-Type: text/csv; charset=utf-8; name=\"$name\"",
        "Content-Disposition: attachment; filename=\"$name\"",
        'Content-Transfer-Encoding: base64',
        '',
        rtrim(chunk_split(base64_encode(implode("\n", $rows) . "\n"))),
        "--$mark--",
        '',
    ]);
}
