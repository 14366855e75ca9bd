# What Prometheus gets to see.
#
# Only postgres_exporter itself can show that it accepts its queries file, and that
# names, types and values arrive as the view has them.  It runs against a cluster
# that delivers, fails, gives up, restarts and loses a webhook; a strict parser
# reads what it says, which must agree with SQL, with metrics_text(), with the
# names in the dashboard and in the documentation, and with what it said before.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use HTTP::Tiny;
use IPC::Open3 qw(open3);
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my ($exporter) = grep { defined && -x }
  $ENV{POSTGRES_EXPORTER},
  map { my $dir = $_; map { "$dir/$_" } qw(prometheus-postgres-exporter postgres_exporter) }
  split /:/, $ENV{PATH};
plan skip_all => 'there is no postgres_exporter (Debian: prometheus-postgres-exporter)'
  if !defined $exporter;

my $top = "$FindBin::Bin/../..";
my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $hostile = qq(a "b" \\ c {d="e",le="1"} #);

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.alert_failures' => 5,
	'chatwebhook.alert_success_rate' => 0.9);
sql('CREATE ROLE prometheus LOGIN IN ROLE pg_monitor');

# The exporter's own figures, some of which not every server has, are not asked for.
my $help = `$exporter --help 2>&1`;
my ($old) = `$exporter --version 2>&1` =~ /(?:exporter|version) (0\.[0-8]\.\d+)/;
plan skip_all => "the exporter is of version $old, which knows no histograms" if defined $old;
my @no_collectors = map { "--no-collector.$_" } $help =~ /--(?:\[no-\])?collector\.(\w+)(?!\S)/g;

my ($exporter_pid, $port);
start_exporter();

# Emit so many events of a chatbot.
sub emit
{
	my ($chatbot, $n) = @_;
	sql("SELECT count(chatwebhook.emit('webhook.test', '$chatbot', null, '{}')) FROM generate_series(1, $n)");
	return;
}

# Start the exporter as its documentation says, as a role of pg_monitor.
sub start_exporter
{
	my (@arguments) = @_;
	@arguments = "--extend.query-path=$top/monitoring/postgres_exporter.yml" if !@arguments;
	$port = PostgreSQL::Test::Cluster::get_free_port();
	local $ENV{DATA_SOURCE_NAME} = sprintf 'user=prometheus host=%s port=%d dbname=postgres sslmode=disable',
	  $node->host, $node->port;
	my $log = "$PostgreSQL::Test::Utils::log_path/060_prometheus_exporter.log";
	open my $output, '>', $log or die "could not open \"$log\": $!";
	$exporter_pid = open3(
		my $stdin, '>&' . fileno($output), undef, $exporter,
		"--web.listen-address=127.0.0.1:$port",
		'--disable-default-metrics', '--disable-settings-metrics',
		@no_collectors,
		@arguments);
	return;
}

sub stop_exporter
{
	return if !$exporter_pid;
	kill 'TERM', $exporter_pid;
	waitpid $exporter_pid, 0;
	undef $exporter_pid;
	return;
}

END
{
	my $exit_code = $?;

	stop_exporter();
	$? = $exit_code;
}

# What the exporter answers, once it answers without an error.
sub scrape
{
	my $deadline = time + $timeout;
	my $text;

	while (1)
	{
		my $response = HTTP::Tiny->new->get("http://127.0.0.1:$port/metrics");
		$text = $response->{content};
		last
		  if $response->{success}
		  && $text =~ /^pg_up 1$/m
		  && $text =~ /^pg_exporter_last_scrape_error 0$/m;
		die "the exporter gives no metrics:\n$text" if time > $deadline;
		sleep 0.1;
	}
	return parse($text, 'the exporter');
}

# Scrape until a condition holds.
sub scrape_until
{
	my ($condition) = @_;
	my $deadline = time + $timeout;

	while (1)
	{
		my $metrics = scrape();
		return $metrics if $condition->($metrics) || time > $deadline;
		sleep 0.1;
	}
}

# Read the text format, as strictly as it is specified.  The families of ours
# come back by name: type, help, and samples by name and labels, less those that
# the exporter adds.
sub parse
{
	my ($text, $who) = @_;
	my (%families, %closed, $family, @problems);

	push @problems, 'no line feed at the end' if $text ne '' && $text !~ /\n\z/;
	foreach my $line (split /\n/, $text)
	{
		if ($line =~ /^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)$/)
		{
			push @problems, "$1 comes twice" if $closed{$1}++;
			push @problems, "a bad escape: $line" if $2 =~ /\\(?:[^\\n]|$)/ && $2 !~ /\\\\/;
			$family = $families{$1} = { name => $1, help => $2, samples => {} };
		}
		elsif ($line =~ /^# TYPE (\S+) (counter|gauge|histogram|summary|untyped)$/)
		{
			push @problems, "a type without a help: $line"
			  if !$family || $family->{name} ne $1 || defined $family->{type};
			$family->{type} = $2;
		}
		elsif ($line =~ /^([a-zA-Z_:][a-zA-Z0-9_:]*)
				(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\]|\\["\\n])*"(?:,(?=[a-zA-Z_])|(?=\})))*)\})?
				[ ]([-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|Inf)|NaN)$/x)
		{
			my ($name, $inner, $value) = ($1, $2 // '', $3);
			my $suffix = ($family->{type} // '') =~ /histogram|summary/ ? qr/(?:_bucket|_sum|_count)?/ : qr//;
			my %labels;

			push @problems, "out of its place: $line" if $name !~ /^\Q$family->{name}\E$suffix$/;
			while ($inner =~ /(\w+)="((?:[^"\\]|\\.)*)"/g)
			{
				my ($label, $content) = ($1, $2);
				push @problems, "label $label twice: $line" if exists $labels{$label};
				$content =~ s/\\(.)/$1 eq 'n' ? "\n" : $1/ge;
				$labels{$label} = $content;
			}
			push @problems, "no database: $line"
			  if $who eq 'the exporter' && $name =~ /^chatwebhook_/ && ($labels{datname} // '') ne 'postgres';
			delete @labels{ 'server', 'datname' };
			# to Prometheus, an empty label is no label
			delete @labels{ grep { $labels{$_} eq '' } keys %labels };
			my $series = join "\0", $name, map { "$_=$labels{$_}" } sort keys %labels;
			push @problems, "twice: $line" if exists $family->{samples}{$series};
			$family->{samples}{$series} = { name => $name, labels => \%labels, value => $value };
		}
		else
		{
			push @problems, "not understood: $line";
		}
	}
	is_deeply(\@problems, [], "$who keeps to the format") if @problems || $who ne 'the exporter';
	delete @families{ grep { !/^chatwebhook_/ } keys %families };
	return \%families;
}

# The value of one sample, found by its name and some of its labels.
sub value
{
	my ($metrics, $name, %labels) = @_;
	my @found;

	foreach my $family (values %$metrics)
	{
		push @found, grep {
			my $sample = $_;
			$sample->{name} eq $name
			  && !grep { ($sample->{labels}{$_} // '') ne $labels{$_} } keys %labels
		} values %{ $family->{samples} };
	}
	return @found == 1 ? $found[0]{value} : scalar(@found) . ' samples';
}

# All samples of all families, by series.
sub samples
{
	my ($metrics) = @_;
	return { map { %{ $_->{samples} } } values %$metrics };
}

# Nothing that counts has gone back since the last time; a series may only end
# with its webhook.
my $before = {};

sub no_counter_goes_back
{
	my ($metrics, $when, $deleted) = @_;
	my %now;

	foreach my $family (values %$metrics)
	{
		next if $family->{type} eq 'gauge';
		$now{$_} = $family->{samples}{$_} foreach keys %{ $family->{samples} };
	}
	my @back = grep {
		exists $now{$_}
		  ? $now{$_}{value} < $before->{$_}{value}
		  : $before->{$_}{labels}{webhook_id} ne ($deleted // '')
	} keys %$before;
	is_deeply(\@back, [], "no counter goes back: $when");
	$before = \%now;
	return;
}

my %id;
($id{shop}) = create_webhook($node, name => 'shop', path => '/ok', chatbot_id => 'bot-1', events => ['webhook.test']);
($id{hostile}) =
  create_webhook($node, name => $hostile, path => '/ok', chatbot_id => 'bot-2', events => ['webhook.test']);
($id{down}) = create_webhook(
	$node, name => 'down', path => '/status/500', chatbot_id => 'bot-3',
	events => ['webhook.test'], max_retries => 0);
($id{hang}) = create_webhook(
	$node, name => 'hang', path => '/hang-until-told', chatbot_id => 'bot-4',
	events => ['webhook.test'], timeout => '5 minutes');

subtest 'before anything happens' => sub {
	my $metrics = scrape();

	is(value($metrics, 'chatwebhook_attempts_total', webhook => 'shop', result => 'success'), 0, 'no success');
	is(value($metrics, 'chatwebhook_attempt_duration_seconds_count', webhook => 'shop'), 0, 'nothing measured');
	is(value($metrics, 'chatwebhook_webhook_status', webhook => 'shop', state => 'idle'), 1, 'idle');
	is(value($metrics, 'chatwebhook_oldest_due_age_seconds', webhook => 'shop'), 0, 'nothing is due');
	is(value($metrics, 'chatwebhook_last_success_timestamp_seconds', webhook => 'shop'), 0, 'no success yet');
	is(value($metrics, 'chatwebhook_workers_running'), 1, 'a worker');
	is(value($metrics, 'chatwebhook_sending_enabled'), 1, 'sending is on');
	no_counter_goes_back($metrics, 'at first');
};

my $full;
subtest 'deliveries, failures and what is under way' => sub {
	emit('bot-1', 7);
	emit('bot-2', 3);
	emit('bot-3', 6);
	emit('bot-4', 4);
	ok($receiver->wait_for(1, 'hang'), 'one hangs');
	my $metrics = scrape_until(
		sub {
			my ($m) = @_;
			return value($m, 'chatwebhook_attempts_total', webhook => 'shop', result => 'success') eq 7
			  && value($m, 'chatwebhook_attempts_total', webhook => $hostile, result => 'success') eq 3
			  && value($m, 'chatwebhook_attempts_total', webhook => 'down', result => 'failure') eq 6
			  && value($m, 'chatwebhook_alerts_open', webhook => 'down', kind => 'consecutive_failures') eq 1
			  && value($m, 'chatwebhook_deliveries_in_flight', webhook => 'hang') > 0;
		});
	$full = $metrics;

	is(value($metrics, 'chatwebhook_attempts_total', webhook_id => $id{shop}, result => 'success'), 7, 'successes');
	is(value($metrics, 'chatwebhook_attempts_total', webhook_id => $id{shop}, result => 'failure'), 0, 'no failure');
	is(value($metrics, 'chatwebhook_attempts_total', webhook_id => $id{hostile}, webhook => $hostile, result => 'success'),
		3, 'a name with everything in it arrives whole');
	is(value($metrics, 'chatwebhook_attempts_total', webhook => 'down', result => 'failure'), 6, 'failures');
	is(value($metrics, 'chatwebhook_consecutive_failures', webhook => 'down'), 6, 'in a row');
	is(value($metrics, 'chatwebhook_deliveries_given_up_total', webhook => 'down'), 6, 'given up');
	is(value($metrics, 'chatwebhook_deliveries_dead', webhook => 'down'), 6, 'dead letters');
	is(value($metrics, 'chatwebhook_webhook_status', webhook => 'down'), 1, 'one state');
	is(value($metrics, 'chatwebhook_webhook_status', webhook => 'down', state => 'failing'), 1, 'failing');
	is(value($metrics, 'chatwebhook_alerts_open', webhook => 'down', kind => 'consecutive_failures'), 1, 'an alert');
	is(value($metrics, 'chatwebhook_deliveries_pending', webhook => 'hang'), 4, 'pending');
	is(value($metrics, 'chatwebhook_deliveries_pending', webhook => 'shop'), 0, 'nothing else is');
	cmp_ok(value($metrics, 'chatwebhook_oldest_due_age_seconds', webhook => 'hang'), '>', 0, 'due');
	is(value($metrics, 'chatwebhook_attempt_duration_seconds_count', webhook => 'shop'), 7, 'measured');
	my $last = value($metrics, 'chatwebhook_last_success_timestamp_seconds', webhook => 'shop');
	cmp_ok(abs(time - $last), '<', $timeout, 'the last success was a moment ago');
	no_counter_goes_back($metrics, 'deliveries and failures');
};

subtest 'names, types and series keep to the conventions' => sub {
	my (@problems, %histogram);

	foreach my $family (values %$full)
	{
		my $name = $family->{name};

		push @problems, "$name: its name" if $name !~ /^chatwebhook(?:_[a-z]+)+$/;
		push @problems, "$name: _total belongs to counters, and counters have it"
		  if ($family->{type} eq 'counter') != ($name =~ /_total$/ ? 1 : 0);
		push @problems, "$name: a suffix that histograms have" if $name =~ /_(?:bucket|sum|count)$/;
		push @problems, "$name: no base unit" if $name =~ /_(?:ms|milliseconds|minutes|hours|percent)(?:_|$)/;
		push @problems, "$name: its unit is not told" if $name =~ /duration|age|latency|timestamp/ && $name !~ /_seconds$/;
		push @problems, "$name: type $family->{type}" if $family->{type} !~ /^(?:counter|gauge|histogram)$/;
		push @problems, "$name: its help: $family->{help}" if $family->{help} !~ /^[A-Z0-9].{10,}\.$/;
		foreach my $sample (values %{ $family->{samples} })
		{
			push @problems, "$name: $sample->{value}" if $sample->{value} !~ /^\d/;
			push @problems, "$name: labels @{[ %{ $sample->{labels} } ]}"
			  if $name !~ /workers|sending/ && !(defined $sample->{labels}{webhook} && defined $sample->{labels}{webhook_id});
			next if $family->{type} ne 'histogram';
			my ($part) = $sample->{name} =~ /_([a-z]+)$/;
			my $of = $histogram{ $name . $sample->{labels}{webhook_id} } //= {};
			if ($part eq 'bucket') { $of->{buckets}{ $sample->{labels}{le} } = $sample->{value}; }
			else { $of->{$part} = $sample->{value}; }
		}
	}
	is(scalar keys %histogram, 4, 'a histogram for each webhook');
	foreach my $of (values %histogram)
	{
		my @bounds = sort { $a <=> $b } grep { $_ ne '+Inf' } keys %{ $of->{buckets} };
		my $last = 0;

		is("@bounds", '0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10', 'its buckets');
		foreach my $value (map { $of->{buckets}{$_} } @bounds, '+Inf')
		{
			push @problems, 'buckets are not cumulative' if $value < $last;
			$last = $value;
		}
		push @problems, 'its last bucket is not its count' if $last != $of->{count};
		push @problems, 'its sum is not within its buckets' if $of->{sum} > 10 * $of->{count};
	}
	is_deeply(\@problems, [], 'all of them');
};

subtest 'the exporter, the view and metrics_text() say the same' => sub {
	my $scraped = scrape();
	my $text = parse(sql('SELECT chatwebhook.metrics_text()') . "\n" =~ s/\n+\z/\n/r, 'metrics_text()');

	foreach my $metrics ($scraped, $text)
	{
		$_->{value} += 0 foreach values %{ samples($metrics) };
		# this one never stands still
		$_->{value} = $_->{value} > 0 ? 'some' : 0
		  foreach values %{ $metrics->{chatwebhook_oldest_due_age_seconds}{samples} };
	}
	is_deeply($text, $scraped, 'every name, type, help, label and value');

	my $rows = JSON::PP->new->decode(sql('SELECT json_agg(m) FROM chatwebhook.metrics m'));
	is(scalar @$rows, scalar keys %{ samples($scraped) }, 'as many rows as samples');

	# and what it all comes from
	my $tables = JSON::PP->new->decode(
		sql(q{
		SELECT json_agg(x) FROM (
			SELECT h.*, (SELECT count(*) FROM chatwebhook.queue q WHERE q.webhook_id = w.id) AS pending,
				   (SELECT count(*) FROM chatwebhook.dead d WHERE d.webhook_id = w.id) AS dead,
				   (SELECT string_agg(kind, ' ' ORDER BY kind) FROM chatwebhook.alert a
					 WHERE a.webhook_id = w.id AND closed_at IS NULL) AS alerts
			  FROM chatwebhook.webhook w JOIN chatwebhook.health h ON h.webhook_id = w.id) x}));
	foreach my $row (@$tables)
	{
		my %by = (webhook_id => $row->{webhook_id});
		my $sum = 0;

		is(value($scraped, 'chatwebhook_attempts_total', %by, result => 'success'), $row->{successes}, 'successes');
		is(value($scraped, 'chatwebhook_attempts_total', %by, result => 'failure'), $row->{failures}, 'failures');
		is(value($scraped, 'chatwebhook_deliveries_given_up_total', %by), $row->{given_up}, 'given up');
		is(value($scraped, 'chatwebhook_deliveries_pending', %by), $row->{pending}, 'pending');
		is(value($scraped, 'chatwebhook_deliveries_dead', %by), $row->{dead}, 'dead');
		is(value($scraped, 'chatwebhook_attempt_duration_seconds_sum', %by), $row->{latency_sum_ms} / 1000, 'sum');
		my @les = qw(0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 +Inf);
		is( join(' ', map { value($scraped, 'chatwebhook_attempt_duration_seconds_bucket', %by, le => $_) } @les),
			join(' ', map { $sum += $_ } @{ $row->{latency_counts} }), 'buckets');
		my @kinds = sort map { $_->{labels}{kind} }
		  grep { $_->{labels}{webhook_id} eq $row->{webhook_id} } values %{ $scraped->{chatwebhook_alerts_open}{samples} };
		is("@kinds", $row->{alerts} // '', 'open alerts');
	}
};

# Two alerts with the same labels would make the exporter refuse every scrape.
subtest 'alerts about watches' => sub {
	create_webhook($node, name => 'leads', path => '/ok', events => ['lead.captured']);
	foreach my $table (qw(lead_a lead_b))
	{
		script(qq{
			CREATE TABLE $table (email text);
			SELECT chatwebhook.watch('$table', 'lead.captured',
				'{"email": "email", "source": "\@widget", "conversationSummary": "\@"}');
			INSERT INTO $table VALUES (NULL)});
	}
	becomes_true(q{SELECT count(*) = 2 FROM chatwebhook.alert WHERE kind = 'emit_failed' AND closed_at IS NULL},
		'two watches have an alert');
	my @watches = split /\n/, sql(q{SELECT watch FROM chatwebhook.alert WHERE kind = 'emit_failed' ORDER BY 1});
	my $text = parse(sql('SELECT chatwebhook.metrics_text()') . "\n" =~ s/\n+\z/\n/r, 'metrics_text()');
	foreach my $metrics (scrape(), $text)
	{
		is(value($metrics, 'chatwebhook_alerts_open', watch => $_, kind => 'emit_failed'), 1, "an alert about $_")
		  foreach @watches;
	}
	script(q{DROP TABLE lead_a, lead_b; DELETE FROM chatwebhook.webhook WHERE name = 'leads'});
};

# The names of ours in a text, and the labels that it asks them for.
sub check_expressions
{
	my ($what, @expressions) = @_;
	my $known = samples($full);
	my (%labels, %used, @problems);

	foreach my $sample (values %$known)
	{
		$labels{ $sample->{name} }{$_} = 1 foreach keys %{ $sample->{labels} }, 'datname';
	}
	foreach my $expression (@expressions)
	{
		my @names = $expression =~ /\b(chatwebhook_\w+)/g;
		foreach my $name (@names)
		{
			$used{$name} = 1;
			push @problems, "unknown: $name" if !$labels{$name};
		}
		while ($expression =~ /\b(chatwebhook_\w+)\{(.*?)\}/g)
		{
			my ($name, $inner) = ($1, $2);
			while ($inner =~ /(\w+)(?:=~|!~|!=|=)"/g)
			{
				push @problems, "$name has no $1" if !$labels{$name}{$1};
			}
		}
		foreach my $list ($expression =~ /\b(?:by|on)\s*\(([^)]*)\)/g)
		{
			foreach my $label (split /\s*,\s*/, $list)
			{
				push @problems, "$names[0] has no $label" if @names && !grep { $labels{$_}{$label} } @names;
			}
		}
		push @problems, "unbalanced: $expression" if ($expression =~ tr/(//) != ($expression =~ tr/)//);
	}
	is_deeply(\@problems, [], "$what: names and labels are those that were scraped");
	return \%used;
}

subtest 'the dashboard' => sub {
	my $dashboard = JSON::PP->new->utf8->decode(slurp_file("$top/monitoring/grafana.json"));
	my (@expressions, @legends, %ids);

	foreach my $panel (@{ $dashboard->{panels} })
	{
		ok(!$ids{ $panel->{id} }++, "$panel->{title}: an id of its own");
		is($_->{datasource}{uid}, '${datasource}', "$panel->{title}: the datasource is the variable")
		  foreach $panel, @{ $panel->{targets} };
		foreach my $target (@{ $panel->{targets} })
		{
			push @expressions, $target->{expr};
			push @legends, [ $target->{expr}, $1 ] while $target->{legendFormat} =~ /\{\{(\w+)\}\}/g;
		}
		my $grid = $panel->{gridPos};
		cmp_ok($grid->{x} + $grid->{w}, '<=', 24, "$panel->{title}: within the page");
	}
	my @queries = map { $_->{definition} // () } @{ $dashboard->{templating}{list} };
	push @expressions, @queries;
	my $used = check_expressions('panels', @expressions);
	my %families = map { ($_ =~ s/_(?:bucket|sum|count)$//r) => 1 } keys %$used;
	is_deeply([ sort keys %families ], [ sort keys %$full ], 'every metric is shown');
	foreach my $legend (@legends)
	{
		ok($legend->[0] =~ /\bby \([^)]*\b$legend->[1]\b[^)]*\)/, "$legend->[1] is in the result of $legend->[0]");
	}
	my %variables = map { $_->{name} => 1 } @{ $dashboard->{templating}{list} };
	my %wanted = map { $_ => 1 } JSON::PP->new->encode($dashboard) =~ /\$\{?(\w+)/g;
	delete $wanted{__rate_interval};
	delete $wanted{__all};
	is_deeply(\%wanted, \%variables, 'the variables');
};

subtest 'the documentation' => sub {
	my $page = slurp_file("$top/docs/monitoring.md");
	my %listed = $page =~ /^\| `(chatwebhook_\w+)` \| (\w+) \|/mg;
	my @rules = $page =~ /^\s+(?:- )?expr: (.*(?:\n {12,}.*)*)/mg;

	is_deeply(\%listed, { map { $_ => $full->{$_}{type} } keys %$full }, 'lists every metric with its type');
	cmp_ok(scalar @rules, '>=', 5, 'has rules');
	check_expressions('rules', @rules);
};

subtest 'what is finished, retried, purged and restarted' => sub {
	$receiver->set(up => ['hang']);
	ok(wait_idle($node), 'what hung is delivered');
	my $metrics = scrape_until(
		sub { value($_[0], 'chatwebhook_attempts_total', webhook => 'hang', result => 'success') eq 4 });
	is(value($metrics, 'chatwebhook_attempts_total', webhook => 'hang', result => 'success'), 4, 'four successes');
	is(value($metrics, 'chatwebhook_deliveries_pending', webhook => 'hang'), 0, 'nothing is pending');
	is(value($metrics, 'chatwebhook_oldest_due_age_seconds', webhook => 'hang'), 0, 'or due');
	no_counter_goes_back($metrics, 'when what hung is delivered');

	is(sql('SELECT chatwebhook.retry(min(id)) FROM chatwebhook.dead_letter'), 't', 'a dead letter is tried again');
	$metrics = scrape_until(
		sub { value($_[0], 'chatwebhook_deliveries_given_up_total', webhook => 'down') eq 7 });
	is(value($metrics, 'chatwebhook_deliveries_given_up_total', webhook => 'down'), 7, 'given up again');
	is(value($metrics, 'chatwebhook_deliveries_dead', webhook => 'down'), 6, 'and dead as before');
	no_counter_goes_back($metrics, 'a dead letter retried');

	sql("SELECT chatwebhook.purge_dead_letters('$id{down}')");
	$metrics = scrape();
	is(value($metrics, 'chatwebhook_deliveries_dead', webhook => 'down'), 0, 'no dead letter after a purge');
	is(value($metrics, 'chatwebhook_deliveries_given_up_total', webhook => 'down'), 7, 'which does not undo what was given up');
	no_counter_goes_back($metrics, 'a purge');

	sql('TRUNCATE chatwebhook.history, chatwebhook.attempt, chatwebhook.activity');
	$node->restart;
	$metrics = scrape_until(sub { value($_[0], 'chatwebhook_workers_running') eq 1 });
	no_counter_goes_back($metrics, 'the history gone, and a restart');

	sql('ALTER SYSTEM SET chatwebhook.enabled = off');
	$node->reload;
	$metrics = scrape_until(sub { value($_[0], 'chatwebhook_sending_enabled') eq 0 });
	is(value($metrics, 'chatwebhook_sending_enabled'), 0, 'sending is off');
	sql('ALTER SYSTEM RESET chatwebhook.enabled');
	$node->reload;

	sql("DELETE FROM chatwebhook.webhook WHERE id = '$id{down}'");
	$metrics = scrape();
	is_deeply(
		[ grep { ($_->{labels}{webhook_id} // '') eq $id{down} } values %{ samples($metrics) } ],
		[], 'the series of a webhook that is deleted end');
	no_counter_goes_back($metrics, 'a webhook deleted', $id{down});
};

subtest 'what waits for its retry is not due' => sub {
	create_webhook($node, name => 'later', path => '/status/503', chatbot_id => 'bot-5', events => ['webhook.test'],
		max_retries => 1, backoff => '1 hour', max_backoff => '1 hour');
	emit('bot-5', 2);
	wait_until(q{SELECT count(*) = 2 FROM chatwebhook.delivery WHERE webhook_name = 'later' AND attempts = 1}) or die;
	my $metrics = scrape_until(
		sub { value($_[0], 'chatwebhook_attempts_total', webhook => 'later', result => 'failure') eq 2 });
	is(value($metrics, 'chatwebhook_deliveries_pending', webhook => 'later'), 2, 'it is pending');
	is(value($metrics, 'chatwebhook_oldest_due_age_seconds', webhook => 'later'), 0, 'but has been due for no time, nor for less');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'later'});
};

subtest 'who sees them' => sub {
	script(q{
		CREATE ROLE anybody LOGIN;
		CREATE ROLE reader LOGIN;
		CREATE ROLE app LOGIN;
		SELECT chatwebhook.grant_reader('reader');
		SELECT chatwebhook.grant_app('app');
		GRANT USAGE ON SCHEMA chatwebhook TO anybody;
	});
	my $names = q{SELECT string_agg(DISTINCT coalesce(labels->>'webhook', '-'), ' ' ORDER BY coalesce(labels->>'webhook', '-'))
					FROM chatwebhook.metrics};
	foreach my $query ($names, 'SELECT chatwebhook.metrics_text()')
	{
		my ($code, undef, $error) = $node->psql('postgres', $query, extra_params => [ '-U', 'anybody' ]);
		isnt($code, 0, 'nobody by himself');
		like($error, qr/permission denied/, 'and says so');
	}
	my $as = sub { return $node->safe_psql('postgres', $_[1], extra_params => [ '-U', $_[0] ]); };
	foreach my $role ('prometheus', 'reader')
	{
		is($as->($role, $names), "- $hostile hang shop", "$role sees all");
		like($as->($role, 'SELECT chatwebhook.metrics_text()'), qr/webhook="hang"/, 'and as text');
	}
	is($as->('app', $names), '', 'an app none while no chatbot is named');
	is($as->('app', 'SELECT chatwebhook.metrics_text()'), '', 'nor as text');
	sql(q{ALTER ROLE app SET chatwebhook.chatbot = 'bot-1'});
	is($as->('app', $names), 'shop', 'and then those of that chatbot');
	my $text = parse($as->('app', 'SELECT chatwebhook.metrics_text()') . "\n" =~ s/\n+\z/\n/r, 'an app\'s text');
	is_deeply(
		[ sort keys %{ { map { ($_->{labels}{webhook} // '-') => 1 } values %{ samples($text) } } } ],
		['shop'], 'and as text');
	foreach my $status ('pending', 'dead')
	{
		is($as->('app', "SELECT count(*) FROM chatwebhook._count_deliveries(ARRAY(SELECT id FROM chatwebhook.webhook), '$status')"), 1,
			"the function behind it counts what is $status for webhooks that are named");
	}
};

# With the arguments that docs/monitoring.md gives for that.
subtest 'two databases of one server' => sub {
	my ($arguments) = slurp_file("$top/docs/monitoring.md") =~ /^ +ARGS='(.*--include-databases=app,shop.*)'$/m;
	sql("CREATE DATABASE $_") foreach 'shop', 'without';
	sql_in('shop', q{CREATE EXTENSION chatwebhook;
		INSERT INTO chatwebhook.webhook (name, url) VALUES ('of the shop', 'https://example.com/')});
	stop_exporter();
	start_exporter(map { s{/etc/prometheus/chatwebhook\.yml}{$top/monitoring/postgres_exporter.yml}r =~ s/=app,/=postgres,/r } split / /, $arguments);

	my $deadline = time + $timeout;
	my ($text, %of);
	while (!$of{shop})
	{
		die "the exporter does not find the databases:\n$text" if $text && time > $deadline;
		$text = HTTP::Tiny->new->get("http://127.0.0.1:$port/metrics")->{content};
		%of = ();
		push @{ $of{$1} }, $& while $text =~ /^chatwebhook_\w+\{.*?datname="(\w+)".*$/mg;
		sleep 0.1;
	}
	is(join(' ', sort keys %of), 'postgres shop', 'both have metrics');
	is(scalar(grep { /^chatwebhook_deliveries_pending\{.*webhook="of the shop"/ } @{ $of{shop} }), 1, 'one has its own webhook');
	is(scalar(grep { /webhook="of the shop"/ } @{ $of{postgres} }), 0, 'which the other has not');
	is(scalar(grep { /^chatwebhook_workers_running\{/ } @{ $of{$_} }), 1, "$_: its workers") foreach sort keys %of;
	like($text, qr/^pg_exporter_last_scrape_error 0$/m, 'and no error, though one has no extension');
};

done_testing();
