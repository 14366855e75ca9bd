# Outboxes with several delivery nodes, delivery nodes with several outboxes, and
# failover of either.
#
# Only several servers can show that row filters leave neither overlap nor gap, and
# that after a standby was promoted on either side nothing is lost and nothing
# arrives twice but what was in flight.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->canonical->allow_nonref;
my $max_in_flight = 4;
my $receiver = start_receiver();
my %for_nodes = ('max_logical_replication_workers' => 16, 'max_worker_processes' => 32,
	'wal_retrieve_retry_interval' => '100ms', 'chatwebhook.poll_interval' => '1s');
my %for_outboxes = ('chatwebhook.outbox' => 'on', 'chatwebhook.outbox_keep' => '2s',
	'chatwebhook.poll_interval' => '100ms');

# Emit events with these numbers, each in a transaction of its own.
sub emit
{
	my ($server, $from, $to) = @_;
	$server->safe_psql('postgres', qq{DO \$\$ BEGIN FOR n IN $from .. $to LOOP
		PERFORM chatwebhook.emit('message.sent', nullif('bot ' || n % 13, 'bot 0'), 'c' || n % 20, jsonb_build_object('role', 'bot', 'content', '', 'n', n));
		COMMIT; END LOOP; END \$\$});
	return;
}

# How often each number has arrived.
sub arrivals
{
	my ($label) = @_;
	my %times;
	$times{ $json->decode($_->{body})->{data}{n} }++ foreach $receiver->log($label);
	return \%times;
}

# Each of these numbers arrives, and at most so many repeatedly.
sub all_arrive
{
	my ($label, $from, $to, $most, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $times;
	ok($receiver->wait_until(sub { $times = arrivals($label); !grep { !$times->{$_} } $from .. $to }), "$what: nothing is lost")
	  or diag('missing: ' . join(' ', grep { !$times->{$_} } $from .. $to));
	my $repeated = 0;
	$repeated += $times->{$_} - 1 foreach grep { $times->{$_} } $from .. $to;
	cmp_ok($repeated, '<=', $most, "$what: at most $most are repeated");
	return;
}

sub is_emptied
{
	my ($server, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($server->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM chatwebhook.event)'), "$what: the outbox is empty");
}

# The statement that subscribes to an outbox, or to a part of it.
sub subscription
{
	my ($server, $parts, $name) = @_;
	my $statement = $server->safe_psql('postgres', "SELECT chatwebhook.publish_outbox($parts)");
	my ($host, $port) = ($server->host, $server->port);
	$statement =~ s/host=''localhost''/host=''$host''/ or die "no host in $statement\n";
	$statement =~ s/SUBSCRIPTION \w+/SUBSCRIPTION $name/ if $name;
	return $statement;
}

sub new_standby
{
	my ($of, $name) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$of->backup($name);
	$standby->init_from_backup($of, $name, has_streaming => 1);
	$standby->start;
	$of->append_conf('postgresql.conf', "synchronous_standby_names = '$name'");
	$of->reload;
	$of->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'}) or die;
	return $standby;
}

#
# Two nodes share the chatbots of one outbox
#
my $outbox = new_node('outbox', -init => [ allows_streaming => 'logical' ], %for_outboxes);
my @parts = map { new_node("part$_", -init => [ allows_streaming => 'logical' ], %for_nodes) } 1, 2;
like(($outbox->psql('postgres', 'SELECT chatwebhook.publish_outbox(3, 2)'))[2], qr/ERROR:  part 3 of 2 does not exist/, 'there is no third part of two');
like(($outbox->psql('postgres', 'SELECT chatwebhook.publish_outbox(part => 1)'))[2], qr/ERROR:  part 1 of <NULL> does not exist/, 'nor a part of nothing');
$outbox->safe_psql('postgres', 'CREATE PUBLICATION chatwebhook_1_of_3 FOR TABLE chatwebhook.event');
like(($outbox->psql('postgres', 'SELECT chatwebhook.publish_outbox(1, 3)'))[2],
	qr/ERROR:  publication "chatwebhook_1_of_3" is not one of inserts/, 'a publication of deletes is refused');
emit($outbox, 1, 200);
create_webhook($parts[0], name => 'one');
create_webhook($parts[1], name => 'two');
$parts[0]->safe_psql('postgres', subscription($outbox, 'part => 1, of => 2'));
emit($outbox, 201, 300);
my $expected = sub { $outbox->safe_psql('postgres', q{
	SELECT string_agg(data->>'n', ' ' ORDER BY (data->>'n')::integer) FROM chatwebhook.event
	 WHERE abs(hashtextextended(coalesce(chatbot_id, ''), 0) % 2) = } . $_[0]) };
my @expected = map { $expected->($_) } 0, 1;
ok($receiver->wait_for(scalar(split / /, $expected[0]), 'one'), 'the first part arrives');
ok($outbox->poll_query_until('postgres', q{SELECT string_agg(slot_name || ' ' || state, ', ' ORDER BY slot_name) FROM chatwebhook.outbox_status},
	'chatwebhook_1_of_2_postgres confirming, chatwebhook_2_of_2_postgres missing'), 'but is not all');
is($outbox->safe_psql('postgres', 'SELECT count(*) FROM chatwebhook.event'), 300, 'nothing leaves while the other part has no subscriber');
$parts[1]->safe_psql('postgres', subscription($outbox, 'part => 2, of => 2'));
is_emptied($outbox, 'two parts');
emit($outbox, 301, 400);
is_emptied($outbox, 'two parts, later');
ok(wait_idle($_), 'idle') foreach @parts;
my ($one, $two) = map { arrivals($_) } 'one', 'two';
is(join(' ', sort { $a <=> $b } grep { $_ <= 300 } keys %$one), $expected[0], 'one node has its chatbots');
is(join(' ', sort { $a <=> $b } grep { $_ <= 300 } keys %$two), $expected[1], 'the other has its own');
is(scalar(grep { ($one->{$_} // 0) + ($two->{$_} // 0) != 1 } 1 .. 400), 0, 'there is neither overlap nor gap');

# one node passes its part on to the other
$receiver->reset;
$parts[1]->safe_psql('postgres', 'DROP SUBSCRIPTION chatwebhook_2_of_2_postgres');
foreach my $setting ('chatwebhook.outbox = on', 'chatwebhook.outbox_keep = 0', "chatwebhook.poll_interval = '100ms'")
{
	$parts[0]->append_conf('postgresql.conf', $setting);
}
$parts[0]->reload;
$parts[0]->poll_query_until('postgres', 'SHOW chatwebhook.outbox', 'on') or die;
$outbox->wait_for_catchup('chatwebhook_1_of_2_postgres');
$parts[1]->safe_psql('postgres', subscription($parts[0], ''));
emit($outbox, 1, 100);
my @of_first = grep { $one->{$_} } 1 .. 100;
ok($receiver->wait_until(sub { scalar(keys %{ arrivals('two') }) == @of_first }), 'a node can pass events on');
is(join(' ', sort { $a <=> $b } keys %{ arrivals('two') }), "@of_first", 'those that it subscribes to');
is($receiver->count('one'), 0, 'and delivers none');
ok($parts[0]->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM chatwebhook.event WHERE first_delivery IS NULL)'), 'it hands them over, too');
$_->stop foreach @parts, $outbox;

#
# Two outboxes share one node
#
my $node = new_node('node', -init => [ allows_streaming => 1 ], %for_nodes, 'hot_standby' => 'on');
create_webhook($node, name => 'both', max_in_flight => $max_in_flight);
my @outboxes = map { new_node("outbox$_", -init => [ allows_streaming => 'logical' ], %for_outboxes) } 1, 2;
emit($outboxes[$_], 1000 * $_ + 1, 1000 * $_ + 100) foreach 0, 1;
$node->safe_psql('postgres', subscription($outboxes[$_], '', "from_$_")) foreach 0, 1;
all_arrive('both', 1, 100, 0, 'from the one');
all_arrive('both', 1001, 1100, 0, 'from the other');
is_emptied($outboxes[$_], "outbox $_") foreach 0, 1;

# Emit events in the background, with a pause every so many.
sub emit_in_background
{
	my ($server, $from, $to, $every) = @_;
	my $pid = fork() // die "fork: $!";
	return $pid if $pid;
	open STDERR, '>', '/dev/null';
	# stops with the server; what it has printed is committed
	exec 'psql', '-X', '-q', '-d', $server->connstr('postgres'), '-c', qq{
		DO \$\$ BEGIN FOR n IN $from .. $to LOOP
			PERFORM chatwebhook.emit('message.sent', NULL, 'c' || n % 20, jsonb_build_object('role', 'bot', 'content', '', 'n', n)); COMMIT;
			IF n % $every = 0 THEN PERFORM pg_sleep(0.01); END IF;
		END LOOP; END \$\$} or die "psql: $!";
}

#
# The node fails over under load
#
my $promoted = new_standby($node, 'promoted');
my $pid = emit_in_background($outboxes[0], 2001, 3000, 10);
ok($receiver->wait_until(sub { keys %{ arrivals('both') } > 400 }), 'some have arrived');
$node->stop('immediate');
$promoted->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$promoted->promote;
waitpid $pid, 0;
is($?, 0, 'all are emitted');
# what is settled but not flushed, besides what is in flight
all_arrive('both', 2001, 3000, 100 + 2 * $max_in_flight, 'failover of the node');
is_emptied($outboxes[0], 'failover of the node');

#
# An outbox fails over under load: subscribe anew there
#
my $successor = new_standby($outboxes[1], 'successor');
$pid = emit_in_background($outboxes[1], 10001, 1000000, 1);    # until it stops
ok($receiver->wait_until(sub { grep { $_ > 10300 } keys %{ arrivals('both') } }), 'some have arrived');
$outboxes[1]->stop('immediate');
waitpid $pid, 0;
$successor->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$successor->promote;
my $committed = $successor->safe_psql('postgres', q{SELECT max((data->>'n')::integer) FROM chatwebhook.event});
is($successor->safe_psql('postgres', q{SELECT slot_name, state FROM chatwebhook.outbox_status}), 'chatwebhook_postgres|missing', 'the slot is missing there');
$promoted->safe_psql('postgres', "ALTER SUBSCRIPTION from_1 DISABLE");
$promoted->safe_psql('postgres', "ALTER SUBSCRIPTION from_1 SET (slot_name = NONE)");
$promoted->safe_psql('postgres', "DROP SUBSCRIPTION from_1");
$promoted->safe_psql('postgres', subscription($successor, '', 'from_1'));
emit($successor, 9001, 9010);
all_arrive('both', 10001, $committed, 0, 'failover of the outbox');
all_arrive('both', 9001, 9010, 0, 'and after it');
is_emptied($successor, 'failover of the outbox');
cmp_ok(scalar(grep { $_ > $committed } keys %{ arrivals('both') }), '<=', 1,
	'nothing arrived that was not committed, but what waited for the standby');

done_testing();
