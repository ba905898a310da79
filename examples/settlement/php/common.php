<?php
/** What the client and the worker share: reading orders, and reaching the job server. */

declare(strict_types=1);

/**
 * A merchant's orders, from the CSV file of examples/settlement/orders.py or from a JSON file of the same shape.
 *
 * Money stays text from the file to the task: a PHP float would lose the cents.
 */
function read_orders(string $path): array
{
    if (!is_readable($path)) {
        throw new RuntimeException("$path cannot be read.");
    }
    if (str_ends_with($path, '.json')) {
        return json_decode(file_get_contents($path), true, 16, JSON_THROW_ON_ERROR);
    }
    $orders = [];
    $file = fopen($path, 'r');
    fgetcsv($file); // the columns' names
    while (($row = fgetcsv($file)) !== false) {
        [$merchant, $order, $day, $products] = $row;
        $items = [];
        foreach (explode(';', $products) as $text) {
            [$product, $quantity, $price, $rate, $refund] = explode(' ', $text);
            $quantity = (int) $quantity;
            $items[] = compact('product', 'quantity', 'price', 'rate', 'refund');
        }
        $orders[] = compact('merchant', 'order', 'day', 'items');
    }
    fclose($file);
    return $orders;
}

/** Splits "host:port". */
function host_and_port(string $address): array
{
    $at = strrpos($address, ':');
    if ($at === false) {
        throw new RuntimeException("$address is no address; write host:port, for instance 127.0.0.1:4730.");
    }
    return [substr($address, 0, $at), (int) substr($address, $at + 1)];
}

/** Names the job server; the extension connects at once, and what it says when it cannot is not clear. */
function connect(GearmanClient|GearmanWorker $peer, string $address): void
{
    try {
        $known = $peer->addServer(...host_and_port($address));
    } catch (GearmanException) {
        $known = false;
    }
    if (!$known) {
        throw new RuntimeException("The job server at $address cannot be reached.");
    }
}
