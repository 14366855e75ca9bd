# The page of dashboard(), in a browser.
#
# Only a browser can show that nothing overflows the screen of a phone or leaves
# that of a desk empty, that a name stays a name whatever it consists of, that the
# colors can be read in the light and in the dark scheme, and that the figures on
# the page are those of the tables.  The screenshots are kept beside the test's
# logs; look at them after a change of the page.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use Compress::Zlib qw(uncompress);
use Encode qw(decode encode);
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

sub find_program
{
	foreach my $name (grep { defined } @_)
	{
		foreach my $path ($name =~ m{/} ? $name : map { "$_/$name" } split /:/, $ENV{PATH})
		{
			return $path if -x $path && !-d $path;
		}
	}
	return undef;
}
my $chromium = find_program($ENV{CHROMIUM}, 'chromium', 'chromium-browser', 'google-chrome');
my $node_js = find_program($ENV{NODE}, 'node');
plan skip_all => 'there is no Chromium' if !defined $chromium;
plan skip_all => 'there is no Node to speak to Chromium' if !defined $node_js;

my $places = PostgreSQL::Test::Utils::tempdir('browser');
my $shots = $PostgreSQL::Test::Utils::log_path;
my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.alert_success_rate' => 0.9);
my $dbname = 'postgres';

my @widths = (360, 768, 1400);
my @schemes = ('light', 'dark');
my %tags = map { $_ => 1 } qw(html head meta title link style body svg defs symbol
  circle path line rect use header main footer section div span h1 h2 h3 p pre code
  dl dt dd ul li b i bdi wbr q a br small time table caption colgroup col thead tbody tr th td
  details summary);
my %attributes = map { $_ => 1 } qw(aria-hidden aria-label aria-labelledby charset class
  content cx cy d data-label datetime fill height href http-equiv id lang name open
  preserveAspectRatio r rel role scope stroke stroke-width style viewBox width x x1 x2 y
  y1 y2);

sub query
{
	return sql_in($dbname, $_[0]);
}

# A page, made as the README says, in a file.
sub make_page
{
	my ($name, %options) = @_;
	my $file = "$places/$name.html";
	my $connection = $node->connstr($options{dbname} // $dbname);
	$connection .= " user=$options{user}" if defined $options{user};

	local $ENV{PGCLIENTENCODING} = $options{encoding} if defined $options{encoding};
	local $ENV{PGTZ} = $options{zone} if defined $options{zone};
	IPC::Run::run(
		[ 'psql', '-XAt', '-d', $connection, '-c', 'SELECT chatwebhook.dashboard(' . ($options{arguments} // '') . ')' ],
		'>', $file, '2>', \my $errors);
	is($errors, '', "$name: psql writes the page");
	my $page = slurp_file($file);
	unlike($page, qr/[^\x0a\x20-\x7e]/, "$name: it is plain ASCII");
	return $page;
}

# What a strict parser, of XML, says of a page: the elements by their names.
sub parse_strictly
{
	my ($name) = @_;
	my $count = <<'END';
import collections, json, sys, xml.parsers.expat
counts = collections.Counter()
parser = xml.parsers.expat.ParserCreate()
parser.StartElementHandler = lambda name, attributes: counts.update([name])
parser.ParseFile(open(sys.argv[1], 'rb'))
print(json.dumps(counts))
END
	my $parsed = IPC::Run::run(
		[ $ENV{PYTHON} // 'python3', '-c', $count, "$places/$name.html" ],
		'>', \my $counts, '2>', \my $errors);
	ok($parsed, "$name: it is well-formed") or diag($errors);
	return $parsed ? $json->decode($counts) : {};
}

# Shows pages to the browser, which is started once.
my ($browser, $jobs, $answers);
my $patience = IPC::Run::timeout(3 * $PostgreSQL::Test::Utils::timeout_default);

sub browse
{
	my (@jobs) = @_;

	local $ENV{HOME} = $places;
	$jobs = join '', map { $json->encode($_) . "\n" } @jobs;
	$answers = '';
	if ($browser)
	{
		$patience->start;
	}
	else
	{
		$browser = IPC::Run::start(
			[ $node_js, "$Chatwebhook::lib/browser.js", $chromium, "$places/profile" ],
			'<', \$jobs, '>', \$answers,
			'2>>', "$shots/061_dashboard_browser.err", $patience);
	}
	while (($answers =~ tr/\n//) < @jobs)
	{
		$browser->pump or die "the browser did not answer, see 061_dashboard_browser.err\n";
	}
	$patience->reset;
	return map { $json->decode($_) } split /\n/, $answers;
}

# A screenshot: its width, its height, and how many values its bytes take, which
# are a few in an empty one.
sub measure_png
{
	my ($file) = @_;
	my $png = slurp_file($file);
	my ($width, $height) = unpack 'x16 NN', $png;
	my $data = '';

	for (my $at = 8; $at < length $png;)
	{
		my ($size, $type) = unpack "x$at N a4", $png;
		$data .= substr($png, $at + 8, $size) if $type eq 'IDAT';
		$at += $size + 12;
	}
	my $bytes = uncompress($data) // '';
	return ($width, $height, scalar grep { index($bytes, chr) >= 0 } 0 .. 255);
}

# Looks at a page at every width, in the light and in the dark, and checks what
# holds of any.  Options: widths, if not all; click (a selector); cut (names
# that have nowhere to break may be cut off).  Returns what the browser has seen
# at the greatest width in the light.
sub show_page
{
	my ($name, %options) = @_;
	my $strict = parse_strictly($name);
	my @jobs = map {
		my $width = $_;
		map {
			{
				url => "file://$places/$name.html",
				width => $width,
				scheme => $_,
				screenshot => "$shots/061_dashboard_$name-$width-$_.png",
				defined $options{click} ? (click => $options{click}) : (),
			}
		} @schemes
	} @{ $options{widths} // \@widths };
	my @seen = browse(@jobs);
	my %background;

	foreach my $i (0 .. $#jobs)
	{
		my ($job, $page) = ($jobs[$i], $seen[$i]);
		my $what = "$name at $job->{width} pixels, $job->{scheme}";
		cmp_ok($page->{scrollWidth}, '<=', $job->{width}, "$what: nothing to scroll sideways");
		is_deeply($page->{beyond}, [], "$what: nothing is beyond the edge") if !$options{cut};
		cmp_ok($page->{contrast}, '>=', 4.5, "$what: every text has enough contrast")
		  or diag($page->{faintest});
		my ($width, $height, $values) = measure_png($job->{screenshot});
		my $all = $page->{height} > 4000 ? 4000 : $page->{height};
		is("$width $height", "$job->{width} $all", "$what: the screenshot has its size");
		cmp_ok($values, '>=', 50, "$what: and is not empty");
		$background{ $job->{scheme} } = $page->{background};
		is("h1 $page->{first}", $page->{headings}[0], "$what: it begins with the state");
		cmp_ok($page->{firstBottom}, '<', 120, "$what: which is at the top");
	}
	isnt($background{light}, $background{dark}, "$name: dark is not light");

	my $page = $seen[-2];
	is_deeply($page->{elements}, $strict, "$name: the browser sees the elements that are written");
	is_deeply([ grep { !$tags{$_} } keys %{ $page->{elements} } ], [], "$name: and none of another kind");
	is_deeply([ grep { !$attributes{$_} } @{ $page->{attributes} } ], [], "$name: nor attributes");
	is_deeply($page->{requests}, ["file://$places/$name.html"], "$name: nothing is fetched from elsewhere");
	is_deeply($page->{said}, [], "$name: the browser complains about nothing");
	is($page->{touched}, undef, "$name: no script has run");
	is(scalar(grep { /^h1 / } @{ $page->{headings} }), 1, "$name: there is one main heading");
	ok(!(grep { !$_->{square} || !defined $_->{caption} } @{ $page->{tables} }),
		"$name: tables have a caption and a heading for each column");
	is($page->{nameless} + $page->{dangling}, 0, "$name: charts have a text, links an end");
	ok($page->{ids}, "$name: ids are unique");
	return $page;
}

# Rows of a query as arrays.
sub rows
{
	return [ map { [ split /\|/, $_, -1 ] } split /\n/, query($_[0]) ];
}

# The rows of the table with that caption.
sub table
{
	my ($page, $caption) = @_;
	my ($table) = grep { $_->{caption} =~ /$caption/ } @{ $page->{tables} };
	return $table ? $table->{rows} : [];
}

# The figures at the top and in the legend, and what SQL says of them.  An age
# may have changed meanwhile; a count may not.
sub check_figures
{
	my ($name, $page) = @_;
	my ($pending, $dead) = split /\|/, query('SELECT sum(pending), sum(dead) FROM chatwebhook.webhook_health');
	my ($succeeded, $failed, $given_up) = split /\|/, query(q{
		SELECT coalesce(sum(succeeded), 0), coalesce(sum(failed), 0), coalesce(sum(given_up), 0)
		  FROM chatwebhook.activity
		 WHERE since >= to_timestamp((floor(extract(epoch FROM now()) / 600) - 71) * 600)});

	is_deeply(
		$page->{figures},
		{
			pending => $pending, dead => $dead,
			alerts => query('SELECT count(*) FROM chatwebhook.alert WHERE closed_at IS NULL'),
			't-succeeded' => $succeeded, 't-failed' => $failed,
			succeeded => $succeeded, failed => $failed, given_up => $given_up,
		},
		"$name: the figures are those of SQL");

	my $shown = {
		map {
			my ($rate, $latency, $waits, $gone) = map { $_->[0] =~ s/,//gr } @{ $_->{cells} };
			my ($total) = $_->{cells}[0][1] =~ / of (.*)/;
			($_->{id} => join ' ', $_->{state}, $rate, $waits, $gone,
				($total // 0) =~ s/,//gr,
				defined $_->{spark} && $_->{spark} =~ /: (\d+) succeeded, (\d+) failed/ ? "$1 $2" : '0 0',
				@{ $_->{bars} } ? "@{ $_->{bars} }" : '0 0')
		} @{ $page->{webhooks} }
	};
	my $told = {
		map { @$_ } @{ rows(q{
			SELECT 'w-' || h.webhook_id,
			       concat_ws(' ', h.state, coalesce(trunc(h.success_rate * 100, 1)::float8 || '%', U&'\2013'),
			                 h.pending, h.dead, h.total, s.good, s.bad, s.good, s.bad)
			  FROM chatwebhook.webhook_health h JOIN chatwebhook.health t USING (webhook_id),
			       LATERAL (SELECT count(*) FILTER (WHERE l >= 0), count(*) FILTER (WHERE l < 0)
			                  FROM unnest(t.recent) l) AS s(good, bad)}) }
	};
	$_ = decode('UTF-8', $_) foreach values %$told;
	is_deeply($shown, $told, "$name: each webhook's state, rate, backlog, dead letters and bars as well");
}

# Ten minutes by ten minutes, half a day of activity by one more worker.
sub add_activity
{
	query(q{INSERT INTO chatwebhook.activity
		SELECT to_timestamp((floor(extract(epoch FROM now()) / 600) - g) * 600), 99,
		       (900 + 700 * sin(g / 9.0) + (g * 7919) % 200)::int,
		       CASE WHEN g < 5 THEN 90 WHEN g % 7 = 0 THEN 12 ELSE 0 END,
		       CASE WHEN g < 3 THEN 11 WHEN g = 28 THEN 2 ELSE 0 END
		  FROM generate_series(0, 90) g});
}

# No step of ten minutes may end between the page and what it is compared with.
sub wait_for_quiet_minute
{
	my $left = 600 - time % 600;
	sleep $left + 1 if $left < scaled(60);
}

subtest 'the first look' => sub {
	ok( $node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM chatwebhook.worker_status'),
		'there is a worker');
	my $source = make_page('empty');
	my $page = show_page('empty');
	is_deeply($page->{webhooks}, [], 'there are no webhooks');
	is_deeply($page->{headings},
		[ 'h1 No webhooks yet', 'h3 There are no webhooks yet', 'h2 Workers' ],
		'the page says so, and has nothing that is empty');
	is($page->{tone}, 'off', 'which is no trouble');

	# What it proposes to do works.
	my ($proposed) = $source =~ m{<pre><code>(.*?)</code></pre>}s;
	$proposed =~ s/&#39;/'/g;
	$proposed =~ s/&gt;/>/g;
	is( (split /\n/, query("BEGIN;
			CREATE TABLE lead (id int, email text, summary text);
			$proposed
			INSERT INTO lead VALUES (1, 'zoe\@example.com', 'asked for prices');
			SELECT name, pending FROM chatwebhook.webhook_health;
			ROLLBACK"))[-1],
		'crm|1', 'what it proposes has an event waiting for a webhook');

	create_webhook($node, name => 'new');
	my $test = make_page('new');
	like($test, qr/<h3>Nothing has been sent yet/, 'before anything is sent, the page proposes a test');
	($proposed) = $test =~ m{<pre><code>(.*?)</code></pre>}s;
	$proposed =~ s/&#39;/'/g;
	like(query($proposed), qr/^t\|200\|/, 'which works');
	query('DELETE FROM chatwebhook.webhook');
};

subtest 'an ordinary day' => sub {
	create_webhook($node, name => 'analytics', path => '/ok', events => ['lead.*']);
	create_webhook($node, name => 'crm', path => '/flaky/1', events => ['lead.*'], backoff => '10 ms');
	my ($down) = create_webhook($node, name => 'ops pager', path => '/status/503', events => ['lead.*'],
		max_retries => 1, backoff => '10 ms', max_backoff => '10 ms');
	create_webhook($node, name => 'sales team', path => '/status/404', events => ['sales.*']);
	my ($off) = create_webhook($node, name => 'partner feed', path => '/ok', events => ['lead.*']);
	create_webhook($node, name => 'support desk', path => '/ok', events => ['handoff.*']);
	query("INSERT INTO chatwebhook.event_type (name) VALUES ('lead.seen'), ('sales.seen')");
	query(q{SELECT chatwebhook.emit('lead.seen', 'shop', n::text, null) FROM generate_series(1, 30) n;
		  SELECT chatwebhook.emit('sales.seen', 'shop', n::text, null) FROM generate_series(1, 4) n});
	ok( $node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM chatwebhook.queue)'),
		'everything is delivered or given up');
	query("BEGIN;
		 SELECT chatwebhook.emit('lead.seen', 'shop', '31', null);
		 UPDATE chatwebhook.webhook SET enabled = false WHERE id = '$off';
		 COMMIT");
	ok( $node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM chatwebhook.queue'),
		'but for what waits for a disabled one');
	# an alert of our own, which the worker does not know how to close
	query("INSERT INTO chatwebhook.alert (id, webhook_id, chatbot_id, webhook_name, kind, message, opened_at)
		 VALUES ('00000000-0000-0000-0000-000000000001', '$down', null, 'ops pager', 'maintenance',
		         'A delivery has been due for 10 minutes', now() - interval '12 minutes')");
	add_activity();
	# those that the worker opens come half a second after what they are of
	ok( $node->poll_query_until($dbname, q{
			SELECT NOT EXISTS (
				SELECT FROM chatwebhook.health h
				 WHERE cardinality(h.recent) >= 20
				   AND (SELECT avg((r >= 0)::int) FROM unnest(h.recent) r) < 0.9
				   AND NOT EXISTS (SELECT FROM chatwebhook.alert a
				                    WHERE a.webhook_id = h.webhook_id
				                      AND a.kind = 'low_success_rate' AND a.closed_at IS NULL))}),
		'the alerts are there');

	wait_for_quiet_minute();
	make_page('ordinary');
	my $page = show_page('ordinary', click => '.chart + .axis + details > summary');
	check_figures('ordinary', $page);
	is($page->{headings}[0], 'h1 2 of 6 webhooks deliver nothing', 'the main heading says what matters')
	  or diag(query('SELECT name, state, success_rate FROM chatwebhook.webhook_health'));
	is($page->{webhooks}[0]{name}, 'ops pager', 'the worst comes first');
	ok(!(grep { !$_->{visible} } @{ $page->{webhooks} }), 'and all can be seen, since they are few');
	is_deeply(
		[ map { [ @$_[ 0, 1, 2 ] ] } @{ table($page, 'given up') } ],
		rows(q{SELECT last_error, string_agg(DISTINCT webhook_name, ', '), count(*)
				 FROM chatwebhook.dead_letter GROUP BY 1 ORDER BY 3 DESC}),
		'dead letters are grouped by their reasons');
	is_deeply(
		[ map { [ @$_[ 0, 1 ] ] } @{ table($page, 'most pending') } ],
		[ [ 'partner feed', 1 ] ], 'the backlog names its webhook');
	is_deeply(
		[ map { [ @$_[ 0, 3, 4 ] ] } @{ table($page, 'workers') } ],
		rows('SELECT pid, delivered, failed FROM chatwebhook.worker_status'),
		'workers have their counts');
	is_deeply(
		[ map { s/.*?: //r =~ s/,(?=\d)//gr } @{ $page->{charts} } ],
		[
			map { "$_->[0] succeeded, $_->[1] failed, $_->[2] given up" } @{ rows(q{
				SELECT coalesce(sum(succeeded), 0), coalesce(sum(failed), 0), coalesce(sum(given_up), 0)
				  FROM generate_series(0, 71) g
				  LEFT JOIN chatwebhook.activity
				         ON since = to_timestamp((floor(extract(epoch FROM now()) / 600) - 71 + g) * 600)
				 GROUP BY g ORDER BY g}) }
		],
		'the bars are those of the table activity');
	my $hours = table($page, 'by the hour');
	is(scalar @$hours, 12, 'twelve hours are listed');
	foreach my $column (1 .. 3)
	{
		my $sum = 0;
		$sum += $_->[$column] =~ s/,//gr foreach @$hours;
		is($sum, $page->{figures}{ (qw(succeeded failed given_up))[ $column - 1 ] },
			"and their column $column has the sum");
	}
	is_deeply(table($page, '^maintenance'),
		[ [ 'ops pager', 'A delivery has been due for 10 minutes', '0 pending', '12 min' ] ],
		'an alert has its webhook, its text at the opening, the figure of now, and its age');
	is_deeply([ grep { /emitted|Outbox/ } @{ $page->{headings} } ],
		[], 'there is nothing about emit failures or an outbox where there are none');

	# Recent failures, and what retries them.
	my $failures = rows(q{
		SELECT d.webhook_name, d.event_type, 'bad', d.last_status_code, a.response_body, d.id,
		       'SELECT chatwebhook.retry(' || d.id || ');'
		  FROM chatwebhook.delivery d
		  JOIN chatwebhook.attempt a ON a.delivery_id = d.id AND a.attempt = d.attempts
		 WHERE d.status = 'dead' ORDER BY d.last_attempt_at DESC, d.id DESC LIMIT 10});
	is(scalar @$failures, 10, 'there are failures enough');
	is_deeply(
		[ map { [ @{$_}{qw(name type tone status reply delivery retry)} ] } @{ $page->{failures} } ],
		$failures, 'the last ten are listed');
	like($page->{failures}[0]{when}, qr/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, .* ago, given up after 2 attempts$/,
		'with their times and ends');
	my $first = $page->{failures}[0]{delivery};
	is(query($page->{failures}[0]{retry}), 't', 'the statement beside one can be copied');
	ok( $node->poll_query_until($dbname,
			"SELECT attempts = 4 FROM chatwebhook.delivery WHERE id = $first AND status = 'dead'"),
		'and retries it');
	query("UPDATE chatwebhook.webhook SET retry_delays = '{1 h}' WHERE id = '$down'");
	query("SELECT chatwebhook.retry($first)");
	ok( $node->poll_query_until($dbname,
			"SELECT attempts = 5 FROM chatwebhook.delivery WHERE id = $first AND status = 'pending'"),
		'it fails once more');
	make_page('retried');
	my ($retried) = @{ show_page('retried', widths => [768])->{failures} };
	is_deeply([ @{$retried}{qw(delivery tone)} ], [ $first, 'warn' ], 'one that is to be retried is amber');
	like($retried->{when}, qr/ago, to be retried in \d+ (?:min|h)$/, 'and says when');
	query("SELECT chatwebhook.cancel($first)");
};

is( query(q{SELECT string_agg(chatwebhook._dashboard_number(rate, '%'), ' ' ORDER BY rate DESC)
		   FROM unnest('{1,0.99999,0.9996,0.5,0}'::numeric[]) AS rate}),
	'100% 99.9% 99.9% 50% 0%', 'only all is 100%');

subtest 'who sees what' => sub {
	query("CREATE ROLE shop_owner LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE monitor LOGIN;
		 CREATE ROLE admin LOGIN; CREATE ROLE nobody LOGIN;
		 SELECT chatwebhook.grant_app('shop_owner');
		 ALTER ROLE shop_owner SET chatwebhook.chatbot = 'shop';
		 SELECT chatwebhook.grant_reader('reader');
		 SELECT chatwebhook.grant_admin('admin');
		 GRANT pg_monitor TO monitor");
	my ($own) = create_webhook($node, name => 'shop hook', path => '/status/404', events => ['lead.*'],
		chatbot_id => 'shop');
	create_webhook($node, name => 'shop feed', path => '/flaky/1', events => ['lead.*'], backoff => '10 ms',
		chatbot_id => 'shop');
	create_webhook($node, name => 'rival hook', path => '/status/404', events => ['lead.*'],
		chatbot_id => 'rival');
	query(q{SELECT chatwebhook.emit('lead.seen', 'shop', n::text, null) FROM generate_series(32, 34) n;
		  SELECT chatwebhook.emit('lead.seen', 'rival', '1', null)});
	ok( $node->poll_query_until('postgres', q{
			SELECT (SELECT count(*) FROM chatwebhook.dead WHERE webhook_name = 'shop hook') = 3
			   AND (SELECT count(*) FROM chatwebhook.dead WHERE webhook_name = 'rival hook') = 1
			   AND (SELECT count(*) FROM chatwebhook.history WHERE webhook_name = 'shop feed') = 3}),
		'customers have deliveries and dead letters');
	query("INSERT INTO chatwebhook.alert (id, webhook_id, chatbot_id, webhook_name, kind, message, opened_at) SELECT gen_random_uuid(), id, chatbot_id, name, 'maintenance', 'Of ' || name, now()
		 FROM chatwebhook.webhook WHERE name IN ('shop hook', 'crm')");

	my $source = make_page('app', user => 'shop_owner');
	my $page = show_page('app');
	is_deeply([ sort map { $_->{name} } @{ $page->{webhooks} } ],
		[ 'shop feed', 'shop hook' ], 'an app sees the webhooks of its chatbot');
	unlike($source, qr/analytics|crm|ops pager|sales team|partner feed|rival/, 'and nothing of others');
	is_deeply(
		$page->{figures},
		{
			pending => 0, dead => 3, alerts => 1, 't-succeeded' => 3, 't-failed' => 6,
			succeeded => 3, failed => 6, given_up => 3,
		},
		'its own figures, and those of its activity');
	cmp_ok(scalar @{ $page->{charts} }, '<', 72, 'in a chart that begins with its first delivery');
	is($page->{headings}[0], 'h1 2 of 2 webhooks need attention', 'its own state');
	like($page->{texts}, qr/chatbot shop/, 'the name of its chatbot');
	unlike($page->{texts}, qr/Workers|database/, 'nothing about the server');
	is(scalar @{ $page->{failures} }, 3, 'its failures');
	is($page->{failures}[0]{reply}, '{"error":"404 Not Found"}', 'with the replies');
	is((split /\n/, $node->safe_psql('postgres', "BEGIN; $page->{failures}[0]{retry} ROLLBACK",
		extra_params => [ '-U', 'shop_owner' ]))[0], 't', 'which it can retry');

	query('ALTER ROLE shop_owner RESET chatwebhook.chatbot');
	make_page('unnamed', user => 'shop_owner');
	$page = show_page('unnamed', widths => [360]);
	is_deeply($page->{headings}, [ 'h1 No chatbot is chosen', 'h3 No chatbot is chosen' ],
		'without its chatbot, it is told to name one');
	query(q{ALTER ROLE shop_owner SET chatwebhook.chatbot = 'nothing yet'});
	$source = make_page('unused', user => 'shop_owner');
	show_page('unused', widths => [360]);
	my ($proposed) = $source =~ m{<pre><code>(.*?)</code></pre>}s;
	$proposed =~ s/&gt;/>/g;
	like($node->safe_psql('postgres', "BEGIN; $proposed ROLLBACK", extra_params => [ '-U', 'shop_owner' ]),
		qr/\|whsec_/, 'without webhooks, the app is told what works');

	# Replies may quote chats, and only some may retry.
	my $figures = sub {
		return $_[0] =~ s/^.*<header/<header/sr =~ s/<time.*?<\/time>//gr =~ s/<div><b class="(?:bad|warn)">.*?<\/div>//gr
		  =~ s/ <code class="copy">.*?<\/code>//gr;
	};
	my $all = make_page('all');
	my %sees = (reader => 0, monitor => 0, admin => 1);
	foreach my $role (sort keys %sees)
	{
		my $seen = make_page($role, user => $role);
		is($figures->($seen), $figures->($all), "a $role sees everything");
		is(($seen =~ /<q>/) ? 1 : 0, $sees{$role}, $sees{$role} ? 'and replies' : 'but no replies');
		is(($seen =~ /chatwebhook\.retry\(\d/) ? 1 : 0, $sees{$role},
			$sees{$role} ? 'and statements that retry' : 'and no statements that it may not execute');
	}
	my ($code, undef, $errors) = $node->psql('postgres', 'SELECT chatwebhook.dashboard()',
		extra_params => [ '-U', 'nobody' ]);
	isnt($code, 0, 'nobody else sees anything');
	# it may call the parts, but they read nothing with more rights than its own
	query('GRANT USAGE ON SCHEMA chatwebhook TO nobody');
	foreach my $part ('dashboard()', q{_dashboard_webhooks('{}', '{}')}, q{_dashboard_failures('{}')},
		'_dashboard_reply(1)', q{_dashboard_dead_letters('{}', 0)}, '_dashboard_outbox()', '_dashboard_workers()')
	{
		($code, undef, $errors) = $node->psql('postgres', "SELECT chatwebhook.$part",
			extra_params => [ '-U', 'nobody' ]);
		like($errors, qr/permission denied/, "nor with $part");
	}
	is( query(q{SELECT string_agg(proname, ' ') FROM pg_proc
			   WHERE pronamespace = 'chatwebhook'::regnamespace AND proname ~ 'dashboard' AND prosecdef}),
		'', 'no part of it has the rights of another');
	query("DELETE FROM chatwebhook.alert; DELETE FROM chatwebhook.webhook WHERE chatbot_id IS NOT NULL");
};

# Everything at its worst, in a database with a name of the same kind.
subtest 'hostile names' => sub {
	my @names = (
		'<script>touched = 1</script>',
		'"><img src=x onerror="touched = 2">',
		q{' onmouseover='touched = 3' x='},
		'</title></style></svg><script>touched = 4</script>',
		']]><!-- --><![CDATA[ &lt;b&gt; &#60; &amp;amp; %s %1$s',
		'{{token}} \\ $1 $html$ javascript:touched=5',
		('w' x 500),
		("\x{202e}" x 3) . 'drawkcab' . "\x{2066}isolated",
		"\x{5e9}\x{5dc}\x{5d5}\x{5dd} (" . ("\x{627}\x{644}" x 60) . ')',
		"\x{1f468}\x{200d}\x{1f469}\x{200d}\x{1f467} \x{1f3f4}" . ("\x{1f4a9}" x 80),
		"Z" . ("\x{338}\x{489}" x 100),
		"a\x{1}b\x{1b}[31mc\x{7f}d\x{85}e\tf\ng\x{fffe}h\x{2028}i",
		"\x{fdfd}" x 60,
		' ');
	my $database = '<script>touched = 6</script> \' " & name';
	$node->safe_psql('postgres', q{CREATE DATABASE "<script>touched = 6</script> ' "" & name"});
	(my $escaped = $database) =~ s/(['\\])/\\$1/g;
	# safe_psql would put the name into a connection string as it is
	my $run = sub {
		my ($statements) = @_;
		my $connection = $node->connstr . " dbname='$escaped'";
		my ($out, $errors);
		IPC::Run::run(
			[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $connection ],
			'<', \encode('UTF-8', $statements), '>', \$out, '2>', \$errors)
		  or die $errors;
		chomp $out;
		return decode('UTF-8', $out);
	};
	my $list = join ', ', map { "(\$n\$$_\$n\$)" } @names;
	$run->("SET client_min_messages = error; CREATE EXTENSION chatwebhook;
		SET session_replication_role = replica;
		CREATE TEMP TABLE hostile (n int GENERATED ALWAYS AS IDENTITY, name text);
		INSERT INTO hostile (name) VALUES $list;
		INSERT INTO chatwebhook.webhook (id, name, url, enabled, disabled_reason)
		SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, name,
		       'https://example.com/' || name, n % 3 <> 0, name FROM hostile;
		INSERT INTO chatwebhook.health (webhook_id, total, successes, failures, consecutive_failures,
		       last_failure_at, last_error, recent)
		SELECT id, 9223372036854775807, 1, 9223372036854775806, 9223372036854775807, '-infinity', name,
		       ARRAY[2147483647, -2147483648, 0, -1, null, 5] || array_fill(-5, ARRAY[200])
		  FROM chatwebhook.webhook;
		INSERT INTO chatwebhook.queue (id, webhook_id, event_id, created_at, next_attempt_at, last_error)
		SELECT row_number() OVER (), id, id, 'infinity', 'infinity', name FROM chatwebhook.webhook;
		INSERT INTO chatwebhook.dead (id, webhook_id, event_id, created_at, completed_at, attempts,
		       webhook_name, status, last_error)
		SELECT row_number() OVER (), id, id, now(), now() + interval '1 day', 1, name, 'dead', name FROM chatwebhook.webhook;
		INSERT INTO chatwebhook.dead (id, webhook_id, event_id, created_at, completed_at, attempts, status)
		SELECT 1000, id, id, now(), now(), 1, 'dead' FROM chatwebhook.webhook LIMIT 1;
		INSERT INTO chatwebhook.alert (id, webhook_id, chatbot_id, webhook_name, kind, message, opened_at)
		SELECT gen_random_uuid(), id, null, name, name, name, now() - interval '400 days' FROM chatwebhook.webhook;
		INSERT INTO chatwebhook.alert (id, webhook_id, chatbot_id, webhook_name, kind, message, opened_at) VALUES (gen_random_uuid(), gen_random_uuid(), null, \$n\$$names[0]\$n\$, 'backlog', '', now());
		UPDATE chatwebhook.dead SET last_attempt_at = now(), last_status_code = 500 WHERE id < 1000;
		UPDATE chatwebhook.health SET last_failure_at = now() WHERE webhook_id IN (SELECT webhook_id FROM chatwebhook.dead WHERE id <= 10);
		INSERT INTO chatwebhook.event (id, type, data, created_at, first_delivery)
		SELECT id, name, '{}', now(), 1 FROM chatwebhook.webhook;
		INSERT INTO chatwebhook.attempt (delivery_id, attempt, webhook_id, started_at, response_body)
		SELECT id, 1, webhook_id, now(), webhook_name || repeat(webhook_name, 20) FROM chatwebhook.dead WHERE id < 1000;
		CREATE TABLE \"<script>touched = 7</script>\" (id int);
		INSERT INTO chatwebhook.emit_failure
		SELECT '\"<script>touched = 7</script>\"'::regclass, left(name, 60), name, name, 9223372036854775807, 'infinity', 'infinity'
		  FROM chatwebhook.webhook;
		INSERT INTO chatwebhook.event (id, type, data, created_at) VALUES (gen_random_uuid(), 'lead.seen', '{}', now());
		INSERT INTO chatwebhook.outbox_slot (slot_name) SELECT left(name, 60) FROM chatwebhook.webhook;
		INSERT INTO chatwebhook.activity VALUES
		       (now(), 1, 9223372036854775807, 9223372036854775807, 9223372036854775807),
		       (now(), 2, 9223372036854775807, 9223372036854775807, 9223372036854775807)");

	my $file = "$places/hostile.html";
	my $page = do {
		local $ENV{PGCLIENTENCODING} = 'LATIN1';
		local $ENV{PGTZ} = '<x-y+z>5';
		$run->('SELECT chatwebhook.dashboard()');
	};
	unlike($page, qr/[^\x0a\x20-\x7e]/, 'the page is plain ASCII, whatever the client wants');
	open my $out, '>', $file or die $!;
	print $out $page;
	close $out;
	my $seen = show_page('hostile', click => 'summary', cut => 1);
	is($seen->{title}, "chatwebhook: $database", 'the title has the name of the database');
	my %shown = map { $_->{id} => $_->{name} } @{ $seen->{webhooks} };
	foreach my $i (0 .. $#names)
	{
		my $expected = $names[$i];
		$expected = substr($expected, 0, 120) . '...' if length $expected > 120;
		$expected =~ tr/\t\n/  /;
		$expected =~ s/[\x00-\x1f\x7f-\x9f\x{2028}-\x{202e}\x{2066}-\x{2069}\x{fffe}]/\x{fffd}/g;
		is($shown{ sprintf 'w-00000000-0000-4000-8000-%012d', $i + 1 },
			$expected, 'name ' . ($i + 1) . ' is shown as it is, or harmless');
	}
	is(scalar @{ $seen->{failures} }, 10, 'ten failures are listed');
	ok(!(grep { !defined $_->{reply} || length $_->{reply} > 163 || $_->{reply} =~ /[\x00-\x1f\x{202a}-\x{202e}\x{2066}-\x{2069}]/ }
		@{ $seen->{failures} }), 'the replies are cut, and harmless as well');
	is(scalar @{ table($seen, 'events were lost') }, 10, 'ten emit failures');
	is(scalar @{ table($seen, 'replication slots') }, scalar @names, 'and the slots');
};

subtest 'a database of another encoding' => sub {
	foreach my $encoding ('LATIN9', 'SQL_ASCII', 'EUC_JP')
	{
		my $name = lc $encoding;
		$node->safe_psql('postgres', "CREATE DATABASE $name ENCODING '$encoding' TEMPLATE template0 LOCALE 'C'");
		my $value = {
			LATIN9 => "chr(164) || chr(233)", SQL_ASCII => "convert_from('\\xc3a9', 'SQL_ASCII')",
			EUC_JP => "convert_from('\\xe69db1', 'UTF8')"
		}->{$encoding};
		$node->safe_psql($name, "SET client_min_messages = error; CREATE EXTENSION chatwebhook;
			INSERT INTO chatwebhook.webhook (name, url) VALUES ('N' || $value, 'https://example.com/')");
		my $page = make_page($name, dbname => $name);
		my $expected = {
			LATIN9 => 'N&#8364;&#233;', SQL_ASCII => 'N&#65533;&#65533;', EUC_JP => 'N&#26481;'
		}->{$encoding};
		like($page, qr/<bdi>\Q$expected\E<\/bdi>/, "$encoding: a name comes out right");
	}
};

subtest 'five hundred webhooks' => sub {
	query(q{
		SET session_replication_role = replica;
		DELETE FROM chatwebhook.webhook; DELETE FROM chatwebhook.health; DELETE FROM chatwebhook.queue;
		DELETE FROM chatwebhook.dead; DELETE FROM chatwebhook.alert;
		INSERT INTO chatwebhook.webhook (id, name, url, enabled)
		SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'webhook ' || n,
		       'https://hooks.example.com/services/' || n || '/in?x=1', n % 11 <> 5
		  FROM generate_series(1, 500) n;
		INSERT INTO chatwebhook.health (webhook_id, total, successes, failures, consecutive_failures,
		       last_success_at, last_failure_at, last_error, recent)
		SELECT id, 1000 + n * 37, 1000 + n * 30, n * 7, CASE WHEN n % 20 = 3 THEN 12 ELSE 0 END,
		       now() - interval '2 min', now() - n * interval '13 min', 'HTTP status 503',
		       ARRAY(SELECT CASE WHEN n % 20 = 3 AND i <= 12 OR n % 17 = 4 AND i % 9 = 3 THEN -31
		                         ELSE 40 + (n * i * 7919) % 97 + CASE WHEN i % 13 = 0 THEN 300 ELSE 0 END END
		               FROM generate_series(1, 100) i)
		  FROM (SELECT id, right(id::text, 12)::int FROM chatwebhook.webhook) AS w(id, n);
		INSERT INTO chatwebhook.queue (id, webhook_id, event_id, created_at, next_attempt_at)
		SELECT row_number() OVER (), webhook_id, gen_random_uuid(), now() - g * interval '40 s', 'infinity'
		  FROM chatwebhook.health, generate_series(1, 140) g WHERE consecutive_failures > 5;
		INSERT INTO chatwebhook.dead (id, webhook_id, event_id, created_at, completed_at, attempts,
		       webhook_name, status, last_error)
		SELECT row_number() OVER (), webhook_id, gen_random_uuid(), now(), now() - g * interval '9 min', 6,
		       'webhook ' || right(webhook_id::text, 12)::int, 'dead', 'reason ' || g % 30
		  FROM chatwebhook.health, generate_series(1, 500) g WHERE consecutive_failures > 5;
		INSERT INTO chatwebhook.alert (id, webhook_id, chatbot_id, webhook_name, kind, message, opened_at)
		SELECT gen_random_uuid(), webhook_id, null, 'webhook', 'consecutive_failures', '12 attempts in a row failed', now()
		  FROM chatwebhook.health WHERE consecutive_failures > 5;
		ANALYZE
	});
	# One that looked through all deliveries anew for each webhook would read each
	# row five hundred times.
	my ($read, $rows) = (split /\n/, query(q{
		BEGIN;
		SELECT length(chatwebhook.dashboard());
		SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables WHERE schemaname = 'chatwebhook';
		COMMIT;
		SELECT sum(reltuples) FROM pg_class WHERE relnamespace = 'chatwebhook'::regnamespace AND relkind = 'r'}))[ 1, 2 ];
	note("the page reads $read rows, where there are $rows");
	cmp_ok($read, '<', 10 * $rows, 'the page is made without reading everything for each webhook');

	wait_for_quiet_minute();
	my $source = make_page('many');
	note('it has ' . length($source) . ' bytes');
	cmp_ok(length $source, '<', 2_000_000, 'and is not large');
	my $page = show_page('many');
	check_figures('many', $page);
	my @hooks = @{ $page->{webhooks} };
	is(scalar @hooks, 500, 'every webhook is there');
	is(scalar(grep { $_->{visible} } @hooks), 25, 'the worst of them at once');
	ok(!(grep { !$_->{visible} } @hooks[ 0 .. 24 ]), 'at the top');
	my $losing = query(q{SELECT count(*) FROM chatwebhook.webhook_health h
		WHERE state = 'failing' OR state = 'disabled' AND pending > 0});
	is($page->{headings}[0], "h1 $losing of 500 webhooks deliver nothing", 'the main heading counts them');
	is(scalar @{ table($page, '^Failures in a row') }, 10, 'ten of the alerts of a kind are listed');
	like($page->{texts}, qr/and 15 more; the view chatwebhook\.alert has all/, 'and the page says so');
	is( join(' ', map { $_->{state} } @hooks) =~ s/\b(\w+)( \1)+\b/$1/gr,
		'failing disabled degraded healthy disabled',
		'they are in the order of their states');
	my ($folded) = browse({
		url => "file://$places/many.html", width => 360, click => 'summary' });
	ok(!(grep { !$_->{visible} } @{ $folded->{webhooks} }), 'a click shows the others');
	cmp_ok($folded->{scrollWidth}, '<=', 360, 'which fit a phone, too');
	is(scalar @{ table($page, 'given up') }, 10, 'the ten most frequent reasons are listed');
	like($page->{texts}, qr/most frequent ten of 30 reasons.*the newest 10,000 are counted/s, 'and the page says so');

	query(q{INSERT INTO chatwebhook.webhook (name, url)
		SELECT 'another ' || n, 'https://hooks.example.com/' || n FROM generate_series(1, 100) n});
	make_page('more');
	$page = show_page('more', widths => [360]);
	is_deeply([ grep { /another/ } map { $_->{name} } @{ $page->{webhooks} } ],
		[], 'of more than 500 webhooks, the worst are listed');
	is(scalar @{ $page->{webhooks} }, 500, 'but no more than that');
	like($page->{texts}, qr/has 100 more webhooks/, 'and the page says where the others are');
};

# Red is what loses events or sends nothing, amber is less.
subtest 'in trouble' => sub {
	my $set = sub {
		my (%settings) = @_;
		foreach my $name (sort keys %settings)
		{
			$node->safe_psql('postgres', "ALTER SYSTEM SET chatwebhook.$name = $settings{$name}");
		}
		$node->reload;
	};
	query(q{TRUNCATE chatwebhook.alert, chatwebhook.activity, chatwebhook.queue, chatwebhook.dead, chatwebhook.history;
		  DELETE FROM chatwebhook.webhook;
		  INSERT INTO chatwebhook.event_type (name) VALUES ('trouble.down'), ('trouble.slow'), ('trouble.none')});
	$set->(breaker_threshold => 3, alert_failures => 3, alert_success_rate => 0);
	ok( $node->poll_query_until($dbname, q{SELECT bool_and(setting = '3') FROM pg_settings
			WHERE name IN ('chatwebhook.breaker_threshold', 'chatwebhook.alert_failures')}), 'the breaker is on');

	# everything is well at first, with activity of ten minutes
	create_webhook($node, name => 'well', path => '/ok', events => ['trouble.slow']);
	query(q{SELECT chatwebhook.emit('trouble.slow', null, null, null)});
	ok($node->poll_query_until($dbname, q{SELECT count(*) = 1 FROM chatwebhook.history}), 'one is delivered');
	ok($node->poll_query_until($dbname, q{SELECT count(*) > 0 FROM chatwebhook.activity}), 'and counted');
	# some may have been opened while their webhooks were deleted
	ok($node->poll_query_until($dbname, q{SELECT NOT EXISTS (SELECT FROM chatwebhook.alert WHERE closed_at IS NULL)}), 'no alert is left');
	wait_for_quiet_minute();
	make_page('well');
	my $page = show_page('well');
	is_deeply([ @{$page}{qw(first tone)} ], [ 'All is well', 'good' ], 'all is well, and green');
	is( scalar @{ $page->{charts} },
		query(q{SELECT 1 + (floor(extract(epoch FROM now()) / 600) - floor(extract(epoch FROM min(since)) / 600))::int
				  FROM chatwebhook.activity}),
		'the chart begins where the data does');
	query(q{INSERT INTO chatwebhook.activity
		SELECT to_timestamp((floor(extract(epoch FROM now()) / 600) - 20) * 600), 99, 7, 0, 0});
	make_page('begun');
	$page = show_page('begun', widths => [1400]);
	is(scalar @{ $page->{charts} }, 21, 'wherever that is');
	like($page->{charts}[0], qr/: 7 succeeded/, 'and with its first figure');

	my ($down) = create_webhook($node, name => 'down', path => '/status/503', events => ['trouble.down'], max_retries => 0);
	create_webhook($node, name => 'asks for a pause', path => '/status/429?retry_after=3600',
		events => ['trouble.slow'], max_retries => 5);
	create_webhook($node, name => 'off with deliveries', events => ['trouble.none']);
	create_webhook($node, name => 'off without', events => ['trouble.none'], enabled => 'false');
	query(q{UPDATE chatwebhook.health SET total = 1, successes = 1, recent = '{12}'
			 WHERE webhook_id = (SELECT id FROM chatwebhook.webhook WHERE name = 'asks for a pause')});
	query(q{BEGIN;
		  SELECT chatwebhook.emit('trouble.none', null, null, null);
		  UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'off with deliveries';
		  COMMIT});
	query(q{SELECT chatwebhook.emit('trouble.slow', null, null, null)});
	query(q{SELECT chatwebhook.emit('trouble.down', null, null, null) FROM generate_series(1, 10)});
	ok( $node->poll_query_until($dbname, q{
			SELECT count(*) = 2 AND bool_and(next_probe_at > now()) FROM chatwebhook.webhook_health
			 WHERE name IN ('down', 'asks for a pause') AND state = 'paused'
			   AND (SELECT count(*) > 0 FROM chatwebhook.alert WHERE closed_at IS NULL)}), 'two are paused')
	  or diag(query('SELECT name, state, next_probe_at FROM chatwebhook.webhook_health'));
	# as after many more probes
	query("UPDATE chatwebhook.health SET consecutive_failures = 1234 WHERE webhook_id = '$down'");
	make_page('trouble');
	$page = show_page('trouble');
	is_deeply([ @{$page}{qw(first tone)} ], [ '2 of 5 webhooks deliver nothing', 'bad' ], 'the main heading is red');
	is_deeply(
		{ map { $_->{name} => "$_->{state} $_->{tone}" } @{ $page->{webhooks} } },
		{
			'down' => 'paused bad', 'off with deliveries' => 'disabled bad', 'asks for a pause' => 'paused warn',
			'off without' => 'disabled off', 'well' => 'healthy good',
		},
		'and so is what delivers nothing, amber what still does');
	my ($waits) = grep { $_->{name} eq 'asks for a pause' } @{ $page->{failures} };
	like($waits->{when}, qr/ago, to be retried in \d+ (?:min|h)$/, 'a delivery that is paused says when it is retried');
	my %remarks = map { $_->{name} => join ' ', @{ $_->{remarks} } } @{ $page->{webhooks} };
	like($remarks{'asks for a pause'}, qr/^Tried next in \d+ (?:min|h)\b/, 'a paused webhook has its next probe');
	like($remarks{down}, qr/^Tried /, 'and so has one that the breaker paused');
	my %resume = map { $_->{name} => $_->{resume} } @{ $page->{webhooks} };
	is(join(' ', sort grep { defined $resume{$_} } keys %resume), 'asks for a pause down', 'and what ends the pause, as no other has');
	is(query($resume{'asks for a pause'}), 't', 'a statement that does');
	ok( $node->poll_query_until($dbname, q{SELECT max(attempts) = 2 FROM chatwebhook.queue
			 WHERE webhook_id = (SELECT id FROM chatwebhook.webhook WHERE name = 'asks for a pause')}), 'it is tried again');
	unlike(make_page('trouble-reader', user => 'reader'), qr/resume\(/, 'a reader, who may not, is not told');
	my ($alert) = grep { $_->[0] eq 'down' } @{ table($page, '^Failures in a row') };
	like($alert->[1], qr/^the last \d+ attempts failed$/, 'an alert says how many had failed when it opened');
	# a probe may have been made since
	my ($now) = $alert->[2] =~ /^(1,\d{3}) failed in a row$/;
	my $failures = query("SELECT consecutive_failures FROM chatwebhook.health WHERE webhook_id = '$down'");
	ok(defined $now && grep({ $_ == $now =~ s/,//r } 1234 .. $failures), "and beside that, how many have now: $alert->[2]");

	# amber alone
	query(q{DELETE FROM chatwebhook.webhook WHERE name IN ('down', 'off with deliveries')});
	query('TRUNCATE chatwebhook.dead, chatwebhook.alert');
	make_page('amber');
	$page = show_page('amber', widths => [360]);
	is_deeply([ @{$page}{qw(first tone)} ], [ '1 of 3 webhooks needs attention', 'warn' ], 'what is less is amber');

	# events that are lost
	query(q{CREATE TABLE lead (id int, email text);
		  SELECT chatwebhook.watch('lead', 'lead.captured', '{"email": "email", "source": "@widget", "conversationSummary": "email"}');
		  INSERT INTO chatwebhook.event_type (name) VALUES ('lead.cold')});
	query(q{UPDATE chatwebhook.webhook SET events = '{lead.*}' WHERE name = 'well'});
	query(q{INSERT INTO lead SELECT n, NULL FROM generate_series(1, 3) n});
	ok( $node->poll_query_until($dbname, q{SELECT count(*) = 1 FROM chatwebhook.alert WHERE kind = 'emit_failed'}),
		'events are not emitted');
	query(q{UPDATE chatwebhook.emit_failure SET failures = 5678});
	make_page('lost');
	$page = show_page('lost');
	is_deeply([ @{$page}{qw(first tone)} ], [ 'Events are being lost', 'bad' ], 'lost events come before all');
	my ($failure) = @{ table($page, 'events were lost') };
	is_deeply([ @{$failure}[ 0, 2 ] ],
		[ query('SELECT watch FROM chatwebhook.alert WHERE watch IS NOT NULL') . 'lead.captured', '5,678' ],
		'with their watch and type, and how many');
	is(table($page, '^Events not emitted')->[0][2], '5,678 rows', 'as beside the alert');
	my $reader = make_page('lost-reader', user => 'reader');
	like($reader, qr/Events are being lost/, 'a reader learns of it');
	unlike($reader, qr/5,678/, 'but not what it may not read');
	query(q{SELECT chatwebhook.unwatch('lead', 'lead.captured'); DROP TABLE lead});

	# an outbox whose delivery node has not come
	$set->(outbox => 'on');
	ok($node->poll_query_until($dbname, q{SELECT setting = 'on' FROM pg_settings WHERE name = 'chatwebhook.outbox'}), 'there is an outbox');
	query(q{SELECT chatwebhook.publish_outbox()});
	query(q{SELECT chatwebhook.emit('lead.cold', null, null, null) FROM generate_series(1, 3)});
	make_page('outbox');
	$page = show_page('outbox');
	is_deeply([ @{$page}{qw(first tone)} ], [ 'The outbox waits for a delivery node', 'bad' ], 'the page says so');
	is_deeply(
		[ map { [ @$_[ 0, 1 ] ] } @{ table($page, 'replication slots') } ],
		rows('SELECT slot_name, state FROM chatwebhook.outbox_status'), 'with the slots');
	like($page->{texts}, qr/\b3 events in the outbox, the oldest \d+ s\b/, 'and how much waits');
	query(q{DELETE FROM chatwebhook.outbox_slot; DELETE FROM chatwebhook.event; DROP PUBLICATION chatwebhook});
	$node->safe_psql('postgres', "ALTER SYSTEM RESET chatwebhook.$_") foreach qw(outbox breaker_threshold alert_failures);
	$node->reload;
};

subtest 'a page that reloads itself' => sub {
	unlike(make_page('still'), qr/http-equiv="refresh"/, 'it does not unless asked to');
	like(make_page('refreshed', arguments => 'refresh => 30'), qr/<meta http-equiv="refresh" content="30"\/>/, 'every 30 seconds');
	is(parse_strictly('refreshed')->{meta}, 6, 'as an element of the head');
	foreach my $seconds (-1, 0, 4, 86401)
	{
		my ($code, undef, $errors) = $node->psql($dbname, "SELECT chatwebhook.dashboard($seconds)");
		like($errors, qr/the page cannot refresh itself every $seconds seconds\nHINT:  Pass between 5 and 86400/, "not every $seconds seconds");
	}
};

subtest 'when nothing is sent' => sub {
	my $says = sub {
		my ($what) = @_;
		return $node->poll_query_until('postgres',
			"SELECT strpos(chatwebhook.dashboard(), '<h3>$what</h3>') > 0
				AND strpos(chatwebhook.dashboard(), 'Nothing is being sent</span></h1>') > 0");
	};
	$node->safe_psql('postgres', 'ALTER SYSTEM SET chatwebhook.enabled = off');
	$node->reload;
	ok($says->('Sending is switched off'), 'switched off');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET chatwebhook.enabled');
	$node->safe_psql('postgres', q{ALTER SYSTEM SET chatwebhook.databases = 'elsewhere'});
	$node->reload;
	ok($says->('No worker is running in this database'), 'no worker');
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET chatwebhook.databases');
	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
	$node->restart;
	ok($says->('The library is not loaded'), 'not loaded');
	query('DELETE FROM chatwebhook.webhook WHERE id NOT IN (SELECT id FROM chatwebhook.webhook ORDER BY 1 LIMIT 8)');
	make_page('unloaded');
	my $page = show_page('unloaded', widths => [360]);
	is($page->{headings}[0], 'h1 Nothing is being sent', 'the main heading says so');
};

# its input may be open in a server that was started since
$jobs = "\n";
ok($browser->finish, 'the browser ends when it is told to');
$node->stop;
done_testing();
