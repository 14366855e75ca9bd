
=head1 NAME

Chatwebhook - what the TAP tests share

=head1 SYNOPSIS

  use FindBin;
  use lib "$FindBin::Bin/../lib";
  use Chatwebhook;
  use Test::More;

  my $node = new_node('main', 'chatwebhook.workers' => 2);
  my $receiver = start_receiver();
  my ($id, $secret) = create_webhook($node, name => 'crm', path => '/flaky/2');

  $node->safe_psql('postgres',
      q{select chatwebhook.emit('webhook.test', null, null, '{}')});
  ok(wait_idle($node), 'the worker is done');
  ok($receiver->wait_for(3, 'crm'), 'three requests have arrived');
  ok($_->{verified}{standard}, 'signed') for $receiver->log('crm');

=head1 DESCRIPTION

Nodes are those of PostgreSQL::Test::Cluster, receivers are receiver.py and
receiver.js beside this file, which explain their paths, logs and options.  Both are stopped when the test ends,
however it ends.

The environment variable PG_TEST_TIMEOUT_DEFAULT says how long to wait for
something before calling it a failure, 180 seconds if it is not set.  On a slow
machine it is larger, and with it, by scaled(), every other time-out in the
tests.  No test takes a thing's speed for its being right: that is for bench/.

=cut

package Chatwebhook;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(dirname);
use JSON::PP ();
use List::Util qw(min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(new_node scaled sql script sql_in becomes_true becomes_true_in
  wait_until wait_until_in end_sessions while_stopped sleeps stay_asleep literal start_receiver start_services
  create_webhook wait_idle server_major seen_by npm_packages);

our $lib = dirname(abs_path(__FILE__));

# How slow the machine is: 1 for PostgreSQL's own default of 180 seconds.
our $slowness = $PostgreSQL::Test::Utils::timeout_default / 180;

# With an older IPC::Run, one is not to feed a psql that cannot connect.
if (!eval { IPC::Run->VERSION('20220807') })
{
	my $poll = \&PostgreSQL::Test::Cluster::poll_query_until;
	no warnings qw(once redefine);
	*PostgreSQL::Test::Cluster::poll_query_until = sub {
		my @arguments = @_;
		my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
		while (1)
		{
			my $result = eval { $poll->(@arguments) };
			return $result if !$@;
			die $@ if $@ !~ /Broken pipe/ || time > $deadline;
		}
	};
}

our $last_node;
our $last_receiver;

my $json = JSON::PP->new->utf8(0)->canonical->allow_nonref;

=head1 FUNCTIONS

=over

=item new_node($name, %settings)

A running node in UTF-8, whatever the locale, with the extension in database
postgres, which may send to receivers on this machine, looks through the queue by
itself but once an hour, opens no alerts but those of disabled webhooks, and lets
webhooks of a chatbot have whatever others may.  The settings go to postgresql.conf.  Two that begin
with a minus sign go elsewhere: C<-init> is an array of arguments for init(),
C<< -extension => 0 >> leaves CREATE EXTENSION out.  C<-install> is another
directory than the usual one that PostgreSQL is installed in.

=cut

sub new_node
{
	my ($name, %given) = @_;
	my $init = delete $given{-init} || [];
	my $extension = delete $given{-extension} // 1;
	my $install = delete $given{-install};
	my %settings = (
		'shared_preload_libraries' => 'chatwebhook',
		'chatwebhook.allow_http' => 'on',
		'chatwebhook.allowed_networks' => '127.0.0.0/8, ::1/128',
		# a sweep would mend what a lost wake-up breaks
		'chatwebhook.poll_interval' => '1h',
		# nothing arrives but what a test emits
		'chatwebhook.alert_failures' => 0,
		'chatwebhook.alert_success_rate' => 0,
		'chatwebhook.alert_backlog' => 0,
		# webhooks of a chatbot may have what a test gives them
		'chatwebhook.max_customer_in_flight' => 1024,
		'chatwebhook.max_customer_retries' => 100,
		'chatwebhook.max_customer_timeout' => '5min',
		'chatwebhook.max_customer_webhooks' => -1,
		%given);

	my $node = PostgreSQL::Test::Cluster->new($name, $install ? (install_path => $install) : ());
	$node->init(extra => [ '--encoding=UTF8', '--locale=C' ], @$init);
	foreach my $setting (sort keys %settings)
	{
		$node->append_conf('postgresql.conf',
			"$setting = " . literal($settings{$setting}));
	}
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION chatwebhook')
	  if $extension;
	$last_node = $node;
	return $node;
}

=item scaled($seconds)

The time for which to let something take its time, on a machine like this one.

=item sql($statement)

What a statement returns in database postgres of the node that was made last;
dies of an error.  All such calls share a session, for as long as the node runs
and the user is the same.  So they are one statement each, which has nothing to
do with its session: no SET, no transaction block, no temporary table, no
advisory lock, nothing that only a new session sees.

=item script($sql), sql_in($dbname, $sql)

The same for any other SQL, and in another database: psql, in a session of its
own.

=item becomes_true($query, $what), becomes_true_in($dbname, $query, $what)

A test that passes as soon as a query gives true.  In database postgres it asks
in the session of sql(), elsewhere in one of its own.

=item wait_until($query), wait_until_in($dbname, $query)

The same without being a test: false if the time is up before.

=item while_stopped($what)

Runs a sub while the only worker is stopped, which finds all that the sub has done
when it goes on.

=item sleeps($pid)

How often a process has gone to sleep.

=item stay_asleep(@pids)

Waits until workers have nothing to do: for 5 seconds, none of them wakes.  That
nothing happens can only be seen over a time.  False if the time is up before.

=item end_sessions()

Ends the session of sql(), before something that it would be in the way of.

=cut

sub scaled
{
	my ($seconds) = @_;
	return $seconds * $slowness;
}

# The sessions of sql(), by server and user.
my %shared;

# A session for some statements: the one of sql(), or for another database one
# that is for the caller to close.
sub _session
{
	my ($node, $dbname) = @_;
	my $key = join "\0", $$, $node->host, $node->port, Session::identity();

	return Session->new($node, $dbname) if $dbname ne 'postgres';
	delete($shared{$key})->close if $shared{$key} && $shared{$key}->is_over;
	return $shared{$key} //= Session->new($node, $dbname);
}

sub end_sessions
{
	$_->close foreach values %shared;
	%shared = ();
	return;
}

# What the server says of a statement.
sub _answer
{
	my ($session, $statement) = @_;
	return { error => $Session::error, rows => '', notices => '' } if !$session;
	my $answer = $session->query($statement);

	die "more than one statement, which is for script(): $statement\n"
	  if @{ $answer->{tags} } > 1;
	die "this would change the session that others share, and is for script(): $statement\n"
	  if $answer->{in_transaction} || grep { /^(?:SET|RESET|PREPARE|LISTEN|LOAD)$/ } @{ $answer->{tags} };
	return $answer;
}

sub _sql
{
	my ($node, $dbname, $statement) = @_;
	my $session = _session($node, $dbname);
	my $answer = _answer($session, $statement);

	$session->close if $session && $dbname ne 'postgres';
	die "error running SQL: '$answer->{error}'\nwith sql '$statement'" if defined $answer->{error};
	note($answer->{notices}) if $answer->{notices} ne '';
	return $answer->{rows} =~ s/\n\z//r;
}

sub sql
{
	my ($statement) = @_;
	return _sql($last_node, 'postgres', $statement);
}

sub sql_in
{
	my ($dbname, $sql) = @_;
	return $last_node->safe_psql($dbname, $sql);
}

sub script
{
	my ($sql) = @_;
	return sql_in('postgres', $sql);
}

sub wait_until_in
{
	my ($dbname, $query) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $pause = 0.01;
	my ($session, $answer, $true);

	while (1)
	{
		$session = _session($last_node, $dbname) if !$session || $dbname eq 'postgres';
		$answer = _answer($session, $query);
		$true = !defined $answer->{error} && $answer->{rows} eq "t\n";
		last if $true || time > $deadline;
		if (defined $answer->{error} && $session && $dbname ne 'postgres')
		{
			$session->close;
			undef $session;
		}
		sleep $pause;
		$pause = 0.1 if ($pause *= 1.5) > 0.1;
	}
	diag("this did not become true:\n$query\nin the end it gave:\n",
		$answer->{rows}, $answer->{notices}, $answer->{error} // '')
	  if !$true;
	$session->close if $session && $dbname ne 'postgres';
	return $true;
}

sub wait_until
{
	my ($query) = @_;
	return wait_until_in('postgres', $query);
}

sub while_stopped
{
	my ($what) = @_;
	my $pid = sql('SELECT pid FROM chatwebhook.worker_status');

	# in its sleep, so that it holds no lock
	wait_until(qq{SELECT state = 'idle' AND wait_event_type IN ('Extension', 'Activity')
		FROM pg_stat_activity WHERE pid = $pid}) or die "the worker does not rest\n";
	kill 'STOP', $pid or die "could not stop the worker: $!\n";
	my $ok = eval { $what->(); 1 };
	my $error = $@;
	kill 'CONT', $pid;
	die $error if !$ok;
	return;
}

sub sleeps
{
	my ($pid) = @_;
	my ($n) = slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m;
	return $n;
}

sub stay_asleep
{
	my (@pids) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $deadline)
	{
		my @before = map { sleeps($_) } @pids;
		sleep 5;
		my @after = map { sleeps($_) } @pids;
		return 1 if "@before" eq "@after";
	}
	return 0;
}

sub becomes_true_in
{
	my ($dbname, $query, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(wait_until_in($dbname, $query), $what);
}

sub becomes_true
{
	my ($query, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true_in('postgres', $query, $what);
}

=item start_receiver(%options)

Starts a receiver and returns it, see L</RECEIVERS>.  Options: C<program>
(receiver.py, or receiver.js), C<args> (an array of further arguments for it),
C<tls> (true: https, with a certificate made for this receiver), C<names> (an array of
names for which it is, too).

=cut

sub start_receiver
{
	$last_receiver = Chatwebhook::Receiver->new(@_);
	return $last_receiver;
}

=item start_services()

Starts the stand-ins of Slack, Discord and the others and returns them, see
L</SERVICES>.

=cut

sub start_services
{
	return Chatwebhook::Services->new(@_);
}

=item create_webhook($node, name => $name, path => $path, %columns)

Calls chatwebhook.create_webhook() and returns the id and the secret, which the
receiver is told.  The webhook's URL is the path on the receiver that was
started last (C<receiver> names another), with the name as its label unless the
path has one; or it is C<url>.  It is subscribed to everything but alerts, unless
C<events> says otherwise.  An array becomes a text[], a hash becomes jsonb, undef
becomes null.  C<credentials>, a hash of them, are set along with it, before the worker
can miss them; C<dbname> is the database to do it in.

=cut

sub create_webhook
{
	my ($node, %columns) = @_;
	my $dbname = delete $columns{dbname} // 'postgres';
	my $receiver = delete $columns{receiver} // $last_receiver;
	my $credentials = delete $columns{credentials} // {};
	my $path = delete $columns{path} // '/ok';
	my $label;

	$columns{name} //= 'webhook';
	$columns{events} //= [ '*', 'webhook.test' ];
	# the default of 10 seconds, as this machine needs it
	$columns{timeout} //= min(scaled(10), 300) . ' s' if $slowness > 1;
	if (!defined $columns{url})
	{
		($path, $label) = _label_path($path, $columns{name});
		$columns{url} = $receiver->url($path);
	}

	my $arguments =
	  join(', ', map { "$_ => " . literal($columns{$_}) } sort keys %columns);
	my $set_credentials = join('',
		map { ', chatwebhook.set_credential(id, ' . literal($_) . ', ' . literal($credentials->{$_}) . ')' }
		sort keys %$credentials);
	my $row = _sql($node, $dbname,
		"SELECT id, secret$set_credentials FROM chatwebhook.create_webhook($arguments)");
	my ($id, $secret) = split(/\|/, $row);
	$receiver->set_secret($label, $secret) if defined $label && length($secret // '');
	return ($id, $secret);
}

=item server_major()

Which PostgreSQL this is: 15.

=cut

sub server_major
{
	my ($major) = _output_of('pg_config', '--version') =~ /(\d+)/;
	return $major;
}

sub _output_of
{
	my (@command) = @_;
	my $output = qx(@command 2>/dev/null) // '';
	chomp $output;
	return $output;
}

=item npm_packages(@packages)

A directory whose node_modules has these packages, each C<name@version>: the one of
C<CHATWEBHOOK_NODE_MODULES>, or a new one.  Undef if npm cannot install them.

=cut

sub npm_packages
{
	my (@packages) = @_;
	my $directory = $ENV{CHATWEBHOOK_NODE_MODULES};
	my $output = '';

	if (!$directory)
	{
		$directory = PostgreSQL::Test::Utils::tempdir('npm');
		local $ENV{npm_config_cache} = "$directory/cache";
		($output) = PostgreSQL::Test::Utils::run_command(
			[ 'sh', '-c', 'exec "$@" </dev/null 2>&1', 'sh',
				'npm', 'install',
				'--prefix' => $directory,
				'--no-audit', '--no-fund', '--no-update-notifier', '--ignore-scripts',
				'--fetch-retries=0', '--fetch-timeout=20000',
				@packages ]);
	}
	foreach my $package (@packages)
	{
		my ($name) = $package =~ /^(.+)@/;
		next if -d "$directory/node_modules/$name";
		note("there is no $name in $directory/node_modules: $output");
		return undef;
	}
	return $directory;
}

=item seen_by($node, $role, chatbot => $chatbot, dbname => $dbname)

What a role sees of each table and view, and whether it gets at secrets and
deliveries: a line for each, or the error, to be compared with another database's.
Without a chatbot, the setting is unset.  Grants to a role C<revoked> do not count.

=cut

sub seen_by
{
	my ($node, $role, %options) = @_;
	my %list = (
		'webhook.name' => 'name', 'webhook.url' => 'name || url', 'webhook_health' => 'name || state',
		'event' => q(type || coalesce(chatbot_id, '')), 'event.data' => 'id || data::text', 'delivery' => 'webhook_name || status',
		'dead_letter' => 'id || event::text', 'attempt' => 'delivery_id || attempt::text', 'memory' => 'conversation_id || remembered::text', 'alert' => 'message',
		'metrics' => 'name || labels', 
		# of roles that were dropped, no dump has rows
		'grantee' => q(CASE WHEN role::text !~ '^\d' AND role::text <> 'revoked' THEN role || access END), 'vault' => 'name', 'worker_status' => 'NULL',
		'event_type' => 'name', 'connector' => 'name',
		'webhook.secret' => 'chatwebhook.secret(id)',
		'delivery.cancel' => 'chatwebhook.cancel(id)', 'webhook.delete' => 'name');
	my $script = '';

	foreach my $what (sort keys %list)
	{
		my ($relation) = $what =~ /^(\w+)/;
		my $query = "SELECT md5(string_agg(x, ' ' ORDER BY x COLLATE \"C\")) || ' ' || count(x)
		               FROM (SELECT ($list{$what})::text AS x FROM chatwebhook.$relation) AS s";
		$query = 'WITH gone AS (DELETE FROM chatwebhook.webhook RETURNING name)
			SELECT count(*) FROM gone' if $what eq 'webhook.delete';
		$script .= qq{BEGIN; SET ROLE "$role";\n}
		  . (defined $options{chatbot} ? 'SET LOCAL chatwebhook.chatbot = ' . literal($options{chatbot}) . ";\n" : '')
		  . "\\echo -n '$role: $what: '\n$query;\n"
		  . "\\if :ERROR\n\\echo 'ERROR: ' :LAST_ERROR_MESSAGE\n\\endif\nROLLBACK;\n";
	}
	my (undef, $seen) = $node->psql($options{dbname} // 'postgres', $script, on_error_stop => 0);
	return $seen;
}

=item wait_idle($node, timeout => $seconds, dbname => $dbname)

Waits until every delivery is finished; false if the time is up before.

=back

=cut

sub wait_idle
{
	my ($node, %options) = @_;
	my $dbname = $options{dbname} // 'postgres';
	my $timeout = $options{timeout} // $PostgreSQL::Test::Utils::timeout_default;

	return _sql($node, $dbname, "SELECT chatwebhook.wait_until_idle('$timeout s')") eq 't';
}

# The path with a label in front of its query string, and the label.
sub _label_path
{
	my ($path, $name) = @_;
	my ($plain, $query) = $path =~ /^([^?]*)(.*)$/s;

	if ($plain !~ m{/-/})
	{
		(my $escaped = $name) =~ s/([^A-Za-z0-9._~-])/sprintf('%%%02X', ord $1)/ge;
		$plain .= "/-/$escaped";
	}
	my ($label) = $plain =~ m{/-/(.*)$};
	$label =~ s/%([0-9A-Fa-f]{2})/chr hex $1/ge;
	return ("$plain$query", $label);
}

# A Perl value as an SQL literal, or as a setting's value.
sub literal
{
	my ($value) = @_;

	return 'NULL' if !defined $value;
	if (ref $value eq 'ARRAY')
	{
		my @elements = map { s/(["\\])/\\$1/gr } @$value;
		$value = '{' . join(',', map { qq("$_") } @elements) . '}';
	}
	elsif (ref $value)
	{
		$value = $json->encode($value);
	}
	$value =~ s/'/''/g;
	return "'$value'";
}

=head1 RECEIVERS

=over

=cut

package Chatwebhook::Receiver;

use strict;
use warnings;

use File::Basename qw(basename);
use HTTP::Tiny;
use IPC::Open3 qw(open3);
use JSON::PP ();
use POSIX qw(WNOHANG);
use Test::More;
use Time::HiRes qw(sleep time);

my @running;
my $started = 0;
my $owner = $$;

sub new
{
	my ($class, %options) = @_;
	my $program = $options{program} // 'receiver.py';
	my $interpreter =
	    $program =~ /\.js$/
	  ? $ENV{NODE} // 'node'
	  : $ENV{PYTHON} // 'python3';
	my $directory = PostgreSQL::Test::Utils::tempdir('receiver');
	my $test = basename($0, '.pl');
	my $base =
	  "$PostgreSQL::Test::Utils::log_path/${test}_receiver_" . ++$started;

	my $self = bless {
		log_file => "$base.jsonl",
		error_file => "$base.err",
		secrets_file => "$directory/secrets.json",
		secrets => {},
		scheme => 'http',
	}, $class;
	unlink $self->{log_file};
	my @command = (
		$interpreter, "$Chatwebhook::lib/$program",
		'--log' => $self->{log_file},
		'--secrets' => $self->{secrets_file},
		@{ $options{args} // [] });
	if ($options{tls})
	{
		$self->_make_certificate($directory, $options{names});
		push @command, '--cert' => $self->{ca_file}, '--key' => "$directory/key.pem";
	}
	$self->_start(@command);
	$self->rewind;
	return $self;
}

# Start the program and read the port that it prints.
sub _start
{
	my ($self, @command) = @_;

	open my $errors, '>', $self->{error_file}
	  or die "could not open \"$self->{error_file}\": $!";
	$self->{pid} =
	  open3($self->{stdin}, my $stdout, '>&' . fileno($errors), @command);
	push @running, $self;
	my $line = <$stdout> // '';
	($self->{port}) = $line =~ /^listening (\d+)$/;
	die "@command did not start, see $self->{error_file}\n"
	  if !defined $self->{port};
}

# A certificate for localhost, 127.0.0.1 and other names, which is its own authority.
sub _make_certificate
{
	my ($self, $directory, $names) = @_;
	my $alternative = join ',', 'DNS:localhost', 'IP:127.0.0.1', map { "DNS:$_" } @{ $names // [] };

	$self->{scheme} = 'https';
	$self->{ca_file} = "$directory/cert.pem";
	PostgreSQL::Test::Utils::system_or_bail(
		'openssl', 'req',
		'-x509', '-nodes',
		'-newkey' => 'rsa:2048',
		'-days' => 2,
		'-subj' => '/CN=localhost',
		'-addext' => "subjectAltName=$alternative",
		'-keyout' => "$directory/key.pem",
		'-out' => $self->{ca_file});
}

=item port(), pid(), ca_file(), log_file()

Where it listens, its process, the certificate to trust if it speaks TLS, and
the file that has its log.

=cut

sub port { return $_[0]->{port}; }
sub pid { return $_[0]->{pid}; }
sub ca_file { return $_[0]->{ca_file}; }
sub log_file { return $_[0]->{log_file}; }

=item url($path)

=cut

sub url
{
	my ($self, $path) = @_;
	return "$self->{scheme}://127.0.0.1:$self->{port}$path";
}

=item set_secret($label, $secret)

Tells the receiver by what to verify the requests of a label: a secret, or an
array of them.

=cut

sub set_secret
{
	my ($self, $label, $secret) = @_;
	my $new = "$self->{secrets_file}.new";

	$self->{secrets}{$label} = $secret;
	open my $file, '>', $new or die "could not open \"$new\": $!";
	print $file JSON::PP->new->utf8->encode($self->{secrets});
	close $file or die "could not write \"$new\": $!";
	rename $new, $self->{secrets_file}
	  or die "could not rename \"$new\": $!";
}

=item log($label)

The requests so far as a list of hashes, those of a label or all.

=cut

sub log
{
	my ($self, $label) = @_;

	open my $file, '<:raw', $self->{log_file}
	  or die "could not open \"$self->{log_file}\": $!";
	seek $file, $self->{log_read}, 0;
	# stop at the current end: a busy receiver can write faster than this reads
	my $end = -s $file;
	while ($self->{log_read} < $end && defined(my $line = <$file>))
	{
		last if substr($line, -1) ne "\n";
		$self->{log_read} += length $line;
		push @{ $self->{entries} }, JSON::PP->new->utf8->decode($line);
	}
	return @{ $self->{entries} } if !defined $label;
	return grep { $_->{label} eq $label } @{ $self->{entries} };
}

=item count($label)

How many whole requests there were.

=cut

sub count
{
	my ($self, $label) = @_;
	return scalar grep { $_->{complete} // 1 } $self->log($label);
}

=item wait_for($n, $label, $timeout)

Waits until there were that many.  False, with a word about it, if there were
not in time.

=cut

sub wait_for
{
	my ($self, $n, $label, $timeout) = @_;

	return 1 if $self->wait_until(sub { $self->count($label) >= $n }, $timeout);
	diag(sprintf 'the receiver got %d of %d requests%s',
		$self->count($label), $n, defined $label ? " for $label" : '');
	return 0;
}

=item wait_until($condition, $timeout)

Waits until the condition, a sub about the receiver's log, is true.

=cut

sub wait_until
{
	my ($self, $condition, $timeout) = @_;
	my $deadline =
	  time + ($timeout // $PostgreSQL::Test::Utils::timeout_default);

	until ($condition->())
	{
		return 0 if time > $deadline;
		$self->_check_alive;
		sleep 0.01;
	}
	return 1;
}

# Die rather than wait for a receiver that has ended by itself.
sub _check_alive
{
	my ($self) = @_;

	return if waitpid($self->{pid}, WNOHANG) == 0;
	@running = grep { $_ != $self } @running;
	die "the receiver is gone, see $self->{error_file}\n";
}

=item set(%what)

Changes behaviours: C<< up => [labels] >>, C<< down => [labels] >>,
C<< replies => {label => [...]} >>.  Not for a receiver that speaks TLS.

=item reset()

Makes the receiver forget its log, counts and behaviours.

=cut

sub set
{
	my ($self, %what) = @_;
	return $self->_control('/_set', JSON::PP->new->utf8->encode(\%what));
}

sub reset
{
	my ($self) = @_;
	$self->_control('/_reset', '');
	$self->rewind;
}

sub _control
{
	my ($self, $path, $body) = @_;
	my $response =
	  HTTP::Tiny->new->post($self->url($path), { content => $body });

	die "$path: $response->{status} $response->{content}\n"
	  if !$response->{success};
}

# Read the log from its beginning again.
sub rewind
{
	my ($self) = @_;
	$self->{log_read} = 0;
	$self->{entries} = [];
}

=item stop()

Ends the receiver; nothing listens on its port any more.

=back

=cut

sub stop
{
	my ($self) = @_;

	return if !grep { $_ == $self } @running;
	@running = grep { $_ != $self } @running;
	kill 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	close $self->{stdin};
}

=head1 SERVICES

What start_services() gives is the program in services/, which explains what it checks and
what it can be told to do.  Of a receiver it has port(), pid(), url(), log(),
count(), wait_for(), wait_until(), reset() and stop(); its labels are those of
the services, C<hubspot>, or C<hubspot~second> for another account.

=over

=cut

package Chatwebhook::Services;

use strict;
use warnings;

use File::Basename qw(basename);
use HTTP::Tiny;
use JSON::PP ();

our @ISA = ('Chatwebhook::Receiver');

my $services_started = 0;

sub new
{
	my ($class) = @_;
	my $test = basename($0, '.pl');
	my $base =
	  "$PostgreSQL::Test::Utils::log_path/${test}_services_" . ++$services_started;
	my $self = bless {
		log_file => "$base.jsonl",
		error_file => "$base.err",
		scheme => 'http',
	}, $class;

	unlink $self->{log_file};
	$self->_start(
		$ENV{PYTHON} // 'python3', '-B', "$Chatwebhook::lib/services",
		'--log' => $self->{log_file});
	$self->rewind;
	return $self;
}

=item state($label)

The objects of an account, as a hash; without a label those of all, by label,
and what else /_state tells.

=item credentials($service)

What a sender to that service has to know, as a hash.

=cut

sub state
{
	my ($self, $label) = @_;
	return $self->_ask('GET', '/_state' . (defined $label ? "?service=$label" : ''));
}

sub credentials
{
	my ($self, $service) = @_;
	return $self->_ask('GET', '/_credentials')->{$service};
}

=item control($label, $what, %how)

Has the service do something, at once or with its next requests, and returns
what it says: C<< control('slack', 'status', status => 410, times => 2) >>.

=back

=cut

sub control
{
	my ($self, $label, $what, %how) = @_;
	return $self->_ask('POST', '/_control', { service => $label, do => $what, %how });
}

sub _ask
{
	my ($self, $method, $path, $content) = @_;
	my $json = JSON::PP->new->utf8;
	my $response = HTTP::Tiny->new->request(
		$method, $self->url($path),
		defined $content ? { content => $json->encode($content) } : {});

	die "$path: $response->{status} $response->{content}\n"
	  if !$response->{success};
	return $json->decode($response->{content});
}

package Chatwebhook::Receiver;

END
{
	# This must not change the exit code of the test.
	my $exit_code = $?;

	if ($$ == $owner)
	{
		$_->stop foreach @running;
	}
	$? = $exit_code;
}

1;
