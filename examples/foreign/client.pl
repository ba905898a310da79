#!/usr/bin/perl
# Calls a task of gtask from Perl: the workload is JSON, and so is the answer.
#
#     perl client.pl [--server 127.0.0.1:4730] [--function calculate] [--timeout 60] [--background] < orders.json
#
# Exit code 0 with the answer on standard output; 1 with the reason on standard error.

use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use Gearman::Client;
use Getopt::Long;

my ($server, $function, $timeout, $background) = ('127.0.0.1:4730', 'calculate', 60, 0);
GetOptions('server=s' => \$server, 'function=s' => \$function, 'timeout=i' => \$timeout, 'background' => \$background)
    or exit 2;
my $workload = do { local $/; <STDIN> };

# Without "exceptions" a task that raises looks like one that failed without a reason.
my $client = Gearman::Client->new(job_servers => [$server], exceptions => 1);

if ($background) {

    # The unique must be given: queues that are kept in a database lose jobs that have none.
    my $unique = sha256_hex(join ' ', $function, $$, time, rand);
    my $handle = $client->dispatch_background($function, \$workload, { uniq => substr($unique, 0, 32) })
        or fail("$server did not take the job.");
    print "$handle\n";
    exit 0;
}

my ($reason, $warned);
$SIG{__WARN__} = sub { $warned = shift };
my $answer = $client->do_task(
    $function,
    \$workload,
    {   timeout      => $timeout,
        on_exception => sub { $reason = "$function raised $_[0]" },
        on_fail      => sub { $reason ||= explain($_[0]) },
    }
);
fail($reason || $warned || "$function gave no answer.") unless defined $answer;
print "$$answer\n";

# The library's own words for the three ways to fail, in words for people.
sub explain {
    my ($why) = @_;
    return "$server cannot be reached." if $why =~ /jssock/;
    return "There was no answer within $timeout seconds. Does a worker serve $function?" if $why =~ /timeout/;
    return "$function failed, without a reason.";
}

sub fail {
    my ($text) = @_;
    chomp $text;
    print STDERR "$text\n";
    exit 1;
}
