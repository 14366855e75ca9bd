# Everything at once, for a short while: see lib/Chaos.pm.
#
# Only here do crashes, failing endpoints, changing webhooks and changing settings
# meet.  SEED repeats the choices of an earlier run; "make chaos" takes longer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chaos;
use Test::More;

run_chaos(duration => $ENV{DURATION} // 15, seed => $ENV{SEED});

done_testing();
