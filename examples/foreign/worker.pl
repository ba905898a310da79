#!/usr/bin/perl
# A task that lives in Perl: `letter` gets a settlement as JSON and answers, as JSON, the letter to its merchant.
#
#     perl worker.pl [--server 127.0.0.1:4730] [--function letter]
#
# From Python: app.function("letter", codec="json"), which can be called, delayed and chained like any task.

use strict;
use warnings;
use Gearman::Worker;
use Getopt::Long;
use JSON::PP;

my ($server, $function) = ('127.0.0.1:4730', 'letter');
GetOptions('server=s' => \$server, 'function=s' => \$function) or exit 2;

my $json  = JSON::PP->new->utf8->allow_nonref;
my $going = 1;
$SIG{TERM} = $SIG{INT} = sub { $going = 0 };

my $worker = Gearman::Worker->new(job_servers => [$server]);
$worker->register_function(
    $function => sub {
        my ($job) = @_;
        my $answer = eval { $json->encode(letter($json->decode($job->arg))) };
        return $answer if defined $answer;

        # Dying in here would report the job twice, and the job server's answer to that would end this worker.
        my $reason = $@;
        chomp $reason;
        $worker->send_work_exception($job, $reason);
        return;
    }
);
$worker->work(stop_if => sub { !$going });

sub letter {
    my ($settlement) = @_;
    die "This is no settlement.\n" unless ref $settlement eq 'HASH' && defined $settlement->{payout};
    return "Dear $settlement->{merchant}, for $settlement->{orders} orders we pay you $settlement->{payout} EUR.";
}
