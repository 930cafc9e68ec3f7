DROP FUNCTION IF EXISTS append_plain;

-- Store a small group that is as groups mostly are, or nothing: head_position is NULL then, and append_batch judges it.
--
-- Plain is: one pushed sub-batch of the live lane, or local appends without append ids; regular, without stated ranges; all
-- entities are known by number, and no event of the log or the group has tags. The rules are those of append_batch, which see;
-- what costs the server there, statements and arguments, is fewer here: a third of the time of a group of three.
--
-- o_id '' = local appends. Arrays come as texts, with the letters of append_batch; y_type are the types of the group's events,
-- one_type the only one, or ''.
CREATE FUNCTION append_plain(
    now_us bigint, o_id text, o_session bigint, o_branch bigint, o_after bigint,
    t_journal text, t_generation text, t_position bigint, t_timestamp bigint, t_entity text, t_seq bigint,
    n_entities int, n_no text, n_slice text, n_count text, n_prev text, n_last text, n_expect text,
    y_type text, one_type text,
    n bigint, e_ent text, e_seq text, e_time text, e_type text, e_codec text, e_metadata text, e_end text, payloads bytea,
    o_time bigint, o_type text, o_codec text, o_metadata text,
    OUT head_position bigint,   -- after the group
    OUT last_timestamp bigint,  -- of its last event; those before it go back one by one
    OUT n_base bigint[],        -- number of an event = n_base[e_ent] + e_seq
    OUT is_tagged boolean       -- the log has tags: no group is plain
) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    known_type text;
BEGIN
    -- The row of the origin, then the head: each is compared as it is once it is locked (EvalPlanQual).
    WITH o AS (
        UPDATE origin AS o
        SET journal_id = t_journal, generation_id = t_generation, position = t_position, timestamp_us = t_timestamp,
            persistence_id = t_entity, seq_nr = t_seq, last_seen_us = now_us
        WHERE o.origin_id = o_id AND o.session = o_session AND o.position = o_after
        RETURNING 1
    )
    UPDATE head AS h
    SET position = h.position + n, timestamp_us = greatest(now_us - 1, h.timestamp_us) + n
    WHERE o_id = '' OR EXISTS (SELECT FROM o)
    RETURNING h.position, h.timestamp_us, h.block_type, h.is_tagged
    INTO head_position, last_timestamp, known_type, is_tagged;
    IF head_position IS NULL THEN
        RETURN;
    END IF;

    -- A statement of its own: it sees what was committed before the head was locked.
    WITH moved AS (
        UPDATE entity AS h
        SET seq_nr = h.seq_nr + u.n,
            origin_seq_nr = CASE WHEN o_id = '' THEN h.origin_seq_nr ELSE u.last END,
            branch = CASE WHEN o_id = '' THEN h.branch ELSE o_branch END
        FROM unnest(n_no::bigint[], n_slice::int[], n_count::int[], n_prev::bigint[], n_last::bigint[], n_expect::bigint[])
            WITH ORDINALITY AS u (no, slice, n, prev, last, expect, i)
        WHERE h.entity_no = u.no AND NOT is_tagged
          AND CASE WHEN o_id = '' THEN (u.n = 0 OR h.owner = '') AND coalesce(u.expect, -1) IN (-1, h.seq_nr)
              ELSE h.owner = o_id AND h.parked = 0
                  AND CASE WHEN h.branch = o_branch THEN h.origin_seq_nr = u.prev ELSE h.origin_seq_nr >= u.prev END
              END
        RETURNING u.i, u.no, u.slice, h.seq_nr - u.n - u.prev AS base
    ), a AS (
        SELECT array_agg(m.base ORDER BY m.i) AS base, array_agg(m.no ORDER BY m.i) AS no,
               array_agg(m.slice ORDER BY m.i) AS slice
        FROM moved AS m
        HAVING count(*) = n_entities
    ), e AS (
        INSERT INTO event (position, timestamp_us, stored_us, event_time_us, entity_no, seq_nr, origin_seq_nr, slice,
                           event_type, codec, tags, metadata, payload, prev_tags)
        SELECT head_position - n + e.i, last_timestamp - n + e.i, now_us, coalesce(e.time, o_time), a.no[e.ent],
               a.base[e.ent] + e.seq, CASE WHEN o_id = '' THEN 0 ELSE e.seq END, a.slice[e.ent],
               coalesce(e.type, o_type), coalesce(e.codec, o_codec), '', coalesce(e.metadata, o_metadata),
               substr(payloads, e.after + 1, e.until - e.after), ''
        FROM a, unnest(e_ent::int[], e_seq::bigint[], e_time::bigint[], texts(e_type), texts(e_codec), texts(e_metadata),
                       e_end::int[], 0 || e_end::int[])
            WITH ORDINALITY AS e (ent, seq, time, type, codec, metadata, until, after, i)
        WHERE e.i <= n
    )
    SELECT a.base INTO n_base FROM a;
    IF n_base IS NULL THEN
        RAISE EXCEPTION USING errcode = 'BH001';
    END IF;

    IF one_type = '' OR known_type <> one_type OR (head_position - n) >> 6 <> head_position >> 6 THEN
        INSERT INTO type_block (entity_type, block)
        SELECT y.entity_type, b.block
        FROM unnest(texts(y_type)) AS y (entity_type),
             generate_series((head_position - n + 1) >> 6, head_position >> 6) AS b (block)
        ON CONFLICT DO NOTHING;
        IF known_type <> one_type THEN
            UPDATE head AS h SET block_type = one_type;
        END IF;
    END IF;
EXCEPTION WHEN SQLSTATE 'BH001' THEN
    head_position := NULL;
END $$;
