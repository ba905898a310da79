<?php
/** As much of SMTP as it takes to hand one mail to a server that asks for no password. */

declare(strict_types=1);

function send_mail(string $server, string $from, string $to, string $mail): void
{
    $socket = @stream_socket_client("tcp://$server", $code, $text, 10);
    if ($socket === false) {
        throw new RuntimeException("The mail server at $server cannot be reached: $text.");
    }
    stream_set_timeout($socket, 30);
    // A line that starts with a dot gets a second one, because a line of one dot ends the mail.
    $mail = preg_replace('/^\./m', '..', preg_replace('/\r?\n/', "\r\n", $mail));
    try {
        expect($socket, '220');
        foreach (
            [
                ['EHLO localhost', '250'],
                ["MAIL FROM:<$from>", '250'],
                ["RCPT TO:<$to>", '250'],
                ['DATA', '354'],
                ["$mail\r\n.", '250'],
                ['QUIT', '221'],
            ] as [$line, $answer]
        ) {
            fwrite($socket, "$line\r\n");
            expect($socket, $answer);
        }
    } finally {
        fclose($socket);
    }
}

/** Reads one answer, which may have several lines, and throws when it is another one than was expected. */
function expect($socket, string $code): void
{
    do {
        $line = fgets($socket, 1024);
    } while ($line !== false && substr($line, 3, 1) === '-');
    if ($line === false || !str_starts_with($line, $code)) {
        throw new RuntimeException("The mail server should have answered $code and answered '" . trim((string) $line) . "'.");
    }
}
