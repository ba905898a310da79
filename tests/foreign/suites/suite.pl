#!/usr/bin/perl
# Every call of Perl's Gearman::Client and Gearman::Worker, against one job server.
#
#     perl suite.pl host:port serve     serves the functions that the other mode calls
#     perl suite.pl host:port call      runs all scenarios (or the one that is named), and writes what it saw as JSON
#
# Nothing is judged here: the test compares what was seen with what it expects. Handles are only looked at, never shown.

use strict;
use warnings;

use Gearman::Client;
use Gearman::Task;
use Gearman::Worker;
use JSON::PP;
use Storable qw(thaw);
use Time::HiRes qw(sleep);

my ($server, $mode, $only) = @ARGV;

sub client { return Gearman::Client->new(job_servers => [$server], @_) }
sub worker { return Gearman::Worker->new(job_servers => [$server], @_) }

# The value behind a reference, as text; undef for none.
sub text { my ($ref) = @_; return ref $ref ? "$$ref" : $ref }

# Whether this is a handle as the library makes it: the server's name and the job server's handle.
sub handle { return JSON::PP::true if defined $_[0] && $_[0] =~ m{^\Q$server\E//H:.*:\d+$}; return JSON::PP::false }

sub bool { return $_[0] ? JSON::PP::true : JSON::PP::false }

# What a job server knows of a job, once it has nothing else to do.
sub status {
    my ($client, $handle) = @_;
    my $status = $client->get_status($handle) or return undef;
    return [bool($status->known), bool($status->running), $status->progress && [map { $_ + 0 } @{ $status->progress }],
        $status->percent];
}

# --- what is called ---------------------------------------------------------------------------------------------

sub serve {
    my $worker = worker(client_id => 'the-suite', @_);
    my $count  = 0;
    $worker->register_function(s_reverse => sub { return scalar reverse $_[0]->arg });
    $worker->register_function(s_length => sub { return 'length ' . length ${ $_[0]->argref } });
    $worker->register_function(s_handle => sub { return $_[0]->handle =~ /^H:.*:\d+$/ ? 'a handle' : 'none' });
    $worker->register_function(s_patient => 20, sub { return 'in time' });
    $worker->register_function(
        s_streams => sub {
            my ($job) = @_;
            $job->set_status(1, 2);
            $worker->send_work_data($job, 'data 1');
            $worker->send_work_warning($job, 'warning');
            $worker->send_work_data($job, \'data 2');
            $job->set_status(2, 2);
            return 'end';
        }
    );
    $worker->register_function(s_completes => sub { $worker->send_work_complete($_[0], 'by hand'); return });
    $worker->register_function(s_fails     => sub { $worker->send_work_fail($_[0]);                return });
    $worker->register_function(s_nothing   => sub { return });
    $worker->register_function(s_empty     => sub { return '' });
    $worker->register_function(s_zero      => sub { return 0 });
    $worker->register_function(
        s_half_status => sub {
            $worker->send_work_status($_[0], 1, 2);    # which leaves the second number away
            return 'after the status';
        }
    );
    $worker->register_function(s_raises => sub { $worker->send_work_exception($_[0], 'what went wrong'); return });
    $worker->register_function(s_third_time => sub { return ++$count % 3 ? undef : "attempt $count" });
    my $runs = 0;
    $worker->register_function(s_counts => sub { sleep 0.2; return ++$runs });
    $worker->work;
}

# --- clients ----------------------------------------------------------------------------------------------------

# The options of a task that write down what happens to it.
sub listening {
    my ($seen, %more) = @_;
    return {
        on_complete  => sub { push @$seen, ['complete', text($_[0])] },
        on_fail      => sub { push @$seen, ['fail', $_[0]] },
        on_status    => sub { push @$seen, ['status', $_[0] + 0, $_[1] + 0] },
        on_data      => sub { push @$seen, ['data', text($_[0])] },
        on_warning   => sub { push @$seen, ['warning', text($_[0])] },
        on_exception => sub { push @$seen, ['exception', text($_[0])] },
        on_retry     => sub { push @$seen, ['retry', $_[0] + 0] },
        %more,
    };
}

my %scenarios;

$scenarios{'do_task'} = sub {
    my $client = client();
    my $bytes  = join '', map { chr } 0 .. 255;
    my $large  = $bytes x 8192;
    return [
        text($client->do_task('s_reverse', 'abc')),
        text($client->do_task('s_reverse', \'def', { uniq => 'perl-1' })),
        text($client->do_task(Gearman::Task->new('s_reverse', \'ghi'))),
        text($client->do_task('s_length',  '')),
        text($client->do_task('s_handle',  'x')),
        text($client->do_task('s_patient', 'x')),
        text($client->do_task('s_completes', 'x')),
        bool(text($client->do_task('s_reverse', \$bytes)) eq reverse $bytes),
        bool(text($client->do_task('s_reverse', \$large)) eq reverse $large),
    ];
};

# The library sends a result that Perl takes for false without its second argument.
$scenarios{'a result that is nothing'} = sub {
    my @seen;
    my $client = client();
    for my $function (qw(s_empty s_zero s_half_status)) {
        push @seen, text($client->do_task($function, 'x', listening(\@seen, timeout => 2.5)));
    }
    return \@seen;
};

$scenarios{'do_task with every priority'} = sub {
    my $client = client();
    return [
        (map { text($client->do_task('s_reverse', 'abc', { priority => $_ })) } qw(high normal low)),
        text($client->do_task('s_reverse', 'abc', { high_priority => 1 })),
    ];
};

$scenarios{'do_task that fails'} = sub {
    my @seen;
    my $client = client();
    for my $function (qw(s_fails s_nothing)) {
        my $result = $client->do_task($function, 'x', listening(\@seen));
        push @seen, [$function, defined $result ? text($result) : undef];
    }
    return \@seen;
};

$scenarios{'do_task with retries'} = sub {
    my @seen;
    my $result = client()->do_task('s_third_time', 'x', listening(\@seen, retry_count => 5));
    return [text($result), \@seen];
};

$scenarios{'a time that is over'} = sub {
    my @seen;
    my $result = client()->do_task('s_nobody', 'x', listening(\@seen, timeout => 0.3));
    return [$result, \@seen];
};

$scenarios{'exceptions'} = sub {
    my @seen;
    my $client = client(exceptions => 1);
    my $set    = $client->new_task_set;
    $set->add_task('s_raises', 'x', listening(\@seen));
    $set->wait(timeout => 20);
    push @seen, text($client->do_task('s_reverse', 'abc'));
    return \@seen;
};

$scenarios{'a task set'} = sub {
    my %seen = map { $_ => [] } qw(reverse streams fails high low);
    my $set  = client()->new_task_set;
    my @handles = (
        $set->add_task('s_reverse', 'abc', listening($seen{reverse})),
        $set->add_task('s_streams', \'x', listening($seen{streams})),
        $set->add_task('s_fails',   'x', listening($seen{fails})),
        $set->add_task('s_reverse', 'def', listening($seen{high}, priority => 'high')),
        $set->add_task(Gearman::Task->new('s_reverse', \'ghi', listening($seen{low}, priority => 'low'))),
    );
    $set->wait;
    return [\%seen, [map { handle($_) } @handles]];
};

$scenarios{'a task set with retries'} = sub {
    my @seen;
    my $set = client()->new_task_set;
    $set->add_task('s_fails', 'x', listening(\@seen, retry_count => 2));
    $set->wait(timeout => 20);
    return \@seen;
};

$scenarios{'a task set whose time is over'} = sub {
    my (@done, @late);
    my $set = client()->new_task_set;
    $set->add_task('s_reverse', 'abc', listening(\@done));
    $set->add_task('s_nobody',  'abc', listening(\@late));
    $set->wait(timeout => 3);
    return [\@done, \@late];
};

$scenarios{'a task set that is cancelled'} = sub {
    my @seen;
    my $client = client();
    my $set    = $client->new_task_set;
    $set->add_task('s_nobody', 'abc', listening(\@seen));
    $set->cancel;
    $set->wait;
    return [\@seen, text($client->do_task('s_reverse', 'abc'))];
};

$scenarios{'tasks of one unique run once'} = sub {
    my (@one, @two);
    my $set = client()->new_task_set;
    $set->add_task('s_counts', 'x', listening(\@one, uniq => 'same'));
    $set->add_task('s_counts', 'x', listening(\@two, uniq => 'same'));
    $set->wait(timeout => 20);
    return [\@one, \@two];
};

$scenarios{'a unique made of the workload'} = sub {
    my (@one, @two);
    my $set = client()->new_task_set;
    $set->add_task('s_reverse', 'abc', listening(\@one, uniq => '-'));
    $set->add_task('s_reverse', 'def', listening(\@two, uniq => '-'));
    $set->wait(timeout => 20);
    return [\@one, \@two];
};

$scenarios{'background and its status'} = sub {
    my $client = client();
    my $handle = $client->dispatch_background('w_status', \'x', { uniq => 'status-1' });
    my @seen   = (handle($handle), status($client, $handle));
    my $worker = worker();
    $worker->register_function(
        w_status => sub {
            my ($job) = @_;
            push @seen, ['started', status($client, $handle)];
            $job->set_status(1, 4);
            # The status travels on the worker's connection; this is answered when it is there.
            sleep 0.02 until (status($client, $handle)->[2] || [0])->[0];
            push @seen, ['half way', status($client, $handle)];
            return 'unheard';
        }
    );
    run($worker, 1);
    sleep 0.02 while status($client, $handle)->[0];
    push @seen, ['over', status($client, $handle)];
    return \@seen;
};

$scenarios{'background by priority'} = sub {
    my $client = client();
    my @ran;
    $client->dispatch_background('w_order', "normal", { uniq => 'o-normal' });
    $client->dispatch_background('w_order', "low",    { uniq => 'o-low',  priority => 'low' });
    $client->dispatch_background('w_order', "high",   { uniq => 'o-high', priority => 'high' });
    $client->dispatch_background(Gearman::Task->new('w_order', \'high 2', { uniq => 'o-high-2', high_priority => 1 }));
    my $worker = worker();
    $worker->register_function(w_order => sub { push @ran, $_[0]->arg; return 'ok' });
    run($worker, 4);
    return \@ran;
};

$scenarios{'background without a unique'} = sub {
    my $client = client();
    my @ran;
    $client->dispatch_background('w_anonymous', $_) for 1, 2;
    my $worker = worker();
    $worker->register_function(w_anonymous => sub { push @ran, $_[0]->arg; return 'ok' });
    run($worker, 2);
    return \@ran;
};

$scenarios{'a prefix'} = sub {
    my $client = client(prefix => 'mine');
    my (@ran, @seen);
    $client->dispatch_background('w_prefixed', 'x', { uniq => 'prefix-1' });
    client()->dispatch_background('w_prefixed', 'y', { uniq => 'prefix-1' });
    my $worker = worker(prefix => 'mine');
    $worker->register_function(w_prefixed => sub { push @ran, $_[0]->arg; return 'ok' });
    run($worker, 1);
    my $other = worker();
    $other->register_function(w_prefixed => sub { push @ran, $_[0]->arg; return 'ok' });
    run($other, 1);
    return [\@ran, $client->prefix];
};

$scenarios{'the admin protocol'} = sub {
    my $client = client();
    $client->dispatch_background('w_seen', 'x', { uniq => 'seen-1' });
    my ($status) = values %{ $client->get_job_server_status };
    my ($row, $served) = @{$status}{qw(w_seen s_reverse)};
    my $worker = worker();
    $worker->register_function(w_seen => sub { return 'ok' });
    run($worker, 1);
    return [{ map { $_ => $row->{$_} + 0 } keys %$row }, $served->{capable} + 0, $client->get_job_server_jobs,
        $client->get_job_server_clients, text($client->do_task('s_reverse', 'abc'))];
};

$scenarios{'hooks'} = sub {
    my $client = client();
    my @seen;
    $client->add_hook(new_task_set => sub { push @seen, 'new_task_set' });
    push @seen, text($client->do_task('s_reverse', 'abc'));
    $client->add_hook('new_task_set');
    push @seen, text($client->do_task('s_reverse', 'abc'));
    return \@seen;
};

$scenarios{'servers of which one is away'} = sub {
    my $client = Gearman::Client->new(job_servers => ['127.0.0.1:1', $server]);
    return [map { text($client->do_task('s_reverse', $_)) } 'abc', 'def', 'ghi'];
};

# --- workers ----------------------------------------------------------------------------------------------------

# Has a worker do so many jobs, and says what it has told its callbacks.
sub run {
    my ($worker, $jobs) = @_;
    my ($ended, @told) = (0);
    $worker->work(
        on_start    => sub { push @told, ['start', handle($_[0])] },
        on_complete => sub { push @told, ['complete', handle($_[0]), $_[1]]; $ended++ },
        on_fail     => sub { push @told, ['fail', handle($_[0]), ($_[1] // '') =~ /^(.*?) at /s ? $1 : $_[1]]; $ended++ },
        stop_if     => sub { return $ended >= $jobs },
    );
    return \@told;
}

$scenarios{'work and its callbacks'} = sub {
    my $client = client();
    $client->dispatch_background('w_callbacks', $_, { uniq => "callbacks-$_" }) for qw(good bad);
    my $worker = worker();
    $worker->register_function(w_callbacks => sub { return $_[0]->arg eq 'good' ? 'done' : undef });
    return run($worker, 2);
};

$scenarios{'a worker that dies in its job'} = sub {
    my $client = client();
    my $handle = $client->dispatch_background('w_dies', 'x', { uniq => 'dies-1' });
    my $worker = worker();
    $worker->register_function(w_dies => sub { die "it died\n at once" });
    local $SIG{__WARN__} = sub { };
    my $told  = eval { run($worker, 1) } // ['the worker broke off', $@ =~ /^(.*?)(?: at |\n)/ ? $1 : $@];
    sleep 0.02 while status($client, $handle)->[0];
    return $told;
};

$scenarios{'stop_if'} = sub {
    my @seen;
    my $worker = worker();
    $worker->register_function(w_idle => sub { return 'ok' });
    client()->dispatch_background('w_idle', 'x', { uniq => 'idle-1' });
    $worker->work(stop_if => sub { push @seen, [bool($_[0]), bool(defined $_[1])]; return defined $_[1] });
    return \@seen;
};

$scenarios{'a worker that waits is woken'} = sub {
    my @ran;
    my $worker = worker();
    $worker->register_function(w_woken => sub { push @ran, $_[0]->arg; return 'ok' });
    defined(my $pid = fork) or die "fork: $!";
    if (!$pid) {
        my $client = client();
        sleep 0.02 until ($client->get_job_server_status->{$server}{w_woken} || {})->{capable};
        sleep 0.2;    # for the worker to fall asleep; were it awake, the scenario would just show less
        $client->dispatch_background('w_woken', $_, { uniq => "woken-$_" }) for 1, 2;
        require POSIX;
        POSIX::_exit(0);
    }
    my $began = Time::HiRes::time();
    run($worker, 2);
    waitpid $pid, 0;
    return [\@ran, bool(Time::HiRes::time() - $began < 8)];
};

$scenarios{'abilities that come and go'} = sub {
    my $client = client();
    my @ran;
    $client->dispatch_background("w_$_", $_, { uniq => "go-$_" }) for qw(a b c);
    my $worker = worker();
    my $note   = sub { push @ran, $_[0]->arg; return 'ok' };
    my @said   = (
        $worker->register_function(w_a => 20, $note), $worker->register_function(w_b => $note),
        $worker->unregister_function('w_a'),
    );
    run($worker, 1);
    push @said, $worker->reset_abilities;
    push @said, $worker->register_function(w_a => $note), $worker->register_function(w_c => $note);
    run($worker, 2);
    return [[map { bool($_) } @said], $ran[0], [sort @ran[1, 2]]];
};

if ($mode eq 'serve') {
    serve();
}
else {
    my %seen;
    for my $name (defined $only ? $only : sort keys %scenarios) {
        print STDERR "$name\n";
        $seen{$name} = $scenarios{$name}->();
    }
    print JSON::PP->new->canonical->pretty->allow_nonref->encode(\%seen);
}
