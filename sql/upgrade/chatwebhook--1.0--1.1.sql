\echo Use "ALTER EXTENSION chatwebhook UPDATE TO '1.1'" to load this file. \quit
/*
 * From 1.0 to 1.1: after it the catalog is what CREATE EXTENSION makes it, to
 * the order of the columns, so new ones go to the end of a table.  Functions
 * are replaced, not dropped, where that can be: what others were granted on
 * them stays.  GRANT and REVOKE are for what is new: on others they would make
 * pg_dump take what the administrator has granted for the extension's own.
 */
