# A primary, its standby, and a standby of that.
#
# Only servers in recovery can show that no worker is at work there, that the views
# can be read there, that emit() says why it cannot write, and that after a
# promotion the deliveries go on where they were, without losing one, and repeating
# at most those that were under way.  The last one follows the promoted one, and
# takes over in its turn.

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

my $primary = new_node('primary', -init => [ allows_streaming => 1 ]);
my ($ok) = create_webhook($primary, name => 'ok', max_in_flight => $max_in_flight);
my ($slow) = create_webhook($primary, name => 'slow', path => '/hang-until-told',
	max_in_flight => $max_in_flight, timeout => '5 minutes');
create_webhook($primary, name => 'dead', path => '/status/400', max_retries => 0);
$primary->safe_psql('postgres', q{
	CREATE TABLE message (n integer, bot text);
	CREATE TRIGGER emit AFTER INSERT ON message
		FOR EACH ROW EXECUTE FUNCTION
		chatwebhook.emit('order.placed', 'chatbotId=bot', 'n');
	INSERT INTO chatwebhook.event_type (name, required) VALUES ('order.placed', '{n}')});

# A new standby of another node.
sub new_standby
{
	my ($name, $of) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);

	$of->backup($name);
	$standby->init_from_backup($of, $name, has_streaming => 1);
	# follows whom it streams from through that one's promotion
	$standby->append_conf('postgresql.conf', q{recovery_target_timeline = 'latest'});
	$standby->start;
	return $standby;
}

# Events with these numbers.
sub emit
{
	my ($node, $from, $to) = @_;
	$node->safe_psql('postgres',
		"INSERT INTO message SELECT n, 'bot' FROM generate_series($from, $to) AS n");
}

# How often each number has arrived at a label.
sub arrivals
{
	my ($label) = @_;
	my %times;

	$times{ $json->decode($_->{body})->{data}{n} }++ foreach $receiver->log($label);
	return \%times;
}

# See that each of the numbers has arrived, and how many more than once at most.
sub arrived
{
	my ($label, $from, $to, $most) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $times = arrivals($label);
	my $repeated = 0;

	is(join(' ', grep { !$times->{$_} } $from .. $to), '',
		"$label: nothing of $from to $to is lost");
	$repeated += ($times->{$_} // 1) - 1 foreach $from .. $to;
	cmp_ok($repeated, '<=', $most, "$label: $most of them are repeated at most");
}

# What a standby does not do, and what it does.
sub is_idle
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $name = $node->name;

	is( $node->safe_psql('postgres', q{
			SELECT count(*) FROM pg_stat_activity
			 WHERE backend_type LIKE 'chatwebhook%'}),
		0, "$name: no worker and no launcher");
	my (undef, undef, $stderr) = $node->psql('postgres',
		q{SELECT chatwebhook.emit('order.placed', NULL, NULL, '{"n": 0}')});
	like($stderr,
		qr/ERROR:  cannot execute chatwebhook\.emit\(\) during recovery/,
		"$name: emit() is an error that says so");
}

# Promote a standby and see that it delivers.
sub promote
{
	my ($node, $next) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $newest = $node->safe_psql('postgres',
		'SELECT max(id) FROM chatwebhook.delivery');

	$node->promote;
	emit($node, $next, $next);
	ok($receiver->wait_until(sub { arrivals('ok')->{$next} }),
		$node->name . ': what is emitted after the promotion arrives');
	is( $node->safe_psql('postgres', qq{
			SELECT count(*), min(d.id) > $newest
			  FROM chatwebhook.delivery d JOIN chatwebhook.event e ON e.id = d.event_id
			 WHERE e.data->>'n' = '$next'}),
		'3|t', $node->name . ': under ids that none before had');
}

my $standby = new_standby('standby', $primary);
my $cascade = new_standby('cascade', $standby);

#
# While the primary delivers
#
emit($primary, 1, 20);
ok($receiver->wait_for(20, 'ok'), 'twenty have arrived');
ok($receiver->wait_for(1, 'slow'), 'some are under way');
ok( $primary->poll_query_until('postgres', q{
		SELECT count(*) = 20 FROM chatwebhook.dead_letter}),
	'twenty are dead');
ok( $primary->poll_query_until('postgres', q{
		SELECT count(*) = 20 FROM chatwebhook.delivery WHERE status = 'delivered'}),
	'twenty are delivered');
$primary->wait_for_catchup($standby);
$standby->wait_for_catchup($cascade, 'replay', $standby->lsn('replay'));
foreach my $node ($standby, $cascade)
{
	my $name = $node->name;

	is_idle($node);
	foreach my $view (split /\n/, $node->safe_psql('postgres', q{
		SELECT oid::regclass FROM pg_class
		 WHERE relnamespace = 'chatwebhook'::regnamespace AND relkind = 'v' ORDER BY 1}))
	{
		my ($status, $stdout, $stderr) =
		  $node->psql('postgres', "SELECT * FROM $view");
		is($status, 0, "$name: $view can be read") or diag($stderr);
	}
	is( $node->safe_psql('postgres', q{
			SELECT name, pending, dead FROM chatwebhook.webhook_health ORDER BY name}),
		"dead|0|20\nok|0|0\nslow|20|0", "$name: webhook_health is true");
	is( $node->safe_psql('postgres', q{
			SELECT webhook_name, status, count(*) FROM chatwebhook.delivery
			 GROUP BY 1, 2 ORDER BY 1}),
		"dead|dead|20\nok|delivered|20\nslow|pending|20", "$name: so is delivery");
	like($node->safe_psql('postgres', 'SELECT chatwebhook.dashboard()'),
		qr/<html.*slow/s, "$name: dashboard() shows it");
	like($node->safe_psql('postgres', 'SELECT chatwebhook.metrics_text()'),
		qr/^# HELP/, "$name: and metrics_text()");
	foreach my $call ("retry(1)", "cancel(1)", "retry_dead()",
		"rotate_secret('$ok')", "resume('$ok')")
	{
		my (undef, undef, $stderr) =
		  $node->psql('postgres', "SELECT chatwebhook.$call");
		like($stderr, qr/ERROR:  cannot execute \S+.* (in a read-only transaction|during recovery)/,
			"$name: $call is an error that says so");
	}
}

#
# The primary is lost with requests under way, and the standby takes over
#
emit($primary, 21, 40);
ok($receiver->wait_until(sub { keys %{ arrivals('ok') } >= 40 }), 'twenty more');
$primary->wait_for_catchup($standby);
$primary->stop('immediate');
my $under_way = $receiver->log('slow');
# what the standby has not been told of
my $unsettled = $standby->safe_psql('postgres', q{
	SELECT count(*) FROM chatwebhook.delivery
	 WHERE webhook_name = 'ok' AND status = 'pending'});
is_idle($standby);
promote($standby, 41);
is_idle($cascade);
$receiver->set(up => ['slow']);
ok(wait_idle($standby), 'the queue is drained');
arrived('ok', 1, 41, $unsettled);
arrived('slow', 1, 41, $under_way);
is( $standby->safe_psql('postgres', q{
		SELECT count(*), count(DISTINCT id), min(status), max(status)
		  FROM chatwebhook.delivery WHERE webhook_name IN ('ok', 'slow')}),
	'82|82|delivered|delivered', 'each is settled, under an id of its own');

#
# The cascade follows
#
emit($standby, 42, 50);
ok(wait_idle($standby), 'more is delivered');
$standby->wait_for_catchup($cascade, 'replay', $standby->lsn('insert'));
is( $cascade->safe_psql('postgres', q{
		SELECT webhook_name, status, count(*) FROM chatwebhook.delivery
		 GROUP BY 1, 2 ORDER BY 1}),
	"dead|dead|50\nok|delivered|50\nslow|delivered|50",
	'and seen behind the standby');
is_idle($cascade);

#
# And takes over in its turn, with a queue
#
$standby->append_conf('postgresql.conf', 'chatwebhook.enabled = off');
$standby->reload;
$standby->poll_query_until('postgres',
	q{SELECT NOT current_setting('chatwebhook.enabled')::boolean})
  or die "sending is not off\n";
emit($standby, 51, 70);
$standby->wait_for_catchup($cascade, 'replay', $standby->lsn('insert'));
$standby->stop('fast');
promote($cascade, 71);
ok(wait_idle($cascade), 'the queue is drained');
arrived('ok', 42, 71, 0);
arrived('slow', 42, 71, 0);
is( $cascade->safe_psql('postgres', q{
		SELECT count(*), count(DISTINCT id) FROM chatwebhook.delivery}),
	'213|213', 'no id was used twice');

foreach my $node ($primary, $standby, $cascade)
{
	my @errors = grep { /^\S+ \S+ \S+ \[\d+\] (ERROR|PANIC):/ }
	  split /\n/, slurp_file($node->logfile);
	is("@errors", '', 'the workers of "' . $node->name . '" have met no error');
}

done_testing();
