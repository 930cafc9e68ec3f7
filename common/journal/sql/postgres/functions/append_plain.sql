DROP FUNCTION IF EXISTS append_plain;

-- Store a small group that is as groups mostly are, or nothing: head_position is NULL then, and append_batch judges it.
--
-- Plain is: pushed sub-batches of the live lane that move their origin, and local appends; regular, without stated ranges; all
-- entities are known by number and go on with the tags they have; no append id was seen before. The rules are those of
-- append_batch, which see; what costs the server there, statements and arguments, is fewer here.
--
-- Arrays come as texts, with the letters of append_batch:
--   s_, t_  the n_subs pushed sub-batches, sorted by origin: whoever locks several origins does so in that order.
--   n_      the n_entities entities of the group: n_owner and n_branch are those of the sub-batch that touches it, '' and 0 of
--           local appends; n_tags, if not empty, the tags of its events, else those are o_tags.
--   e_      the n events.
--   a_      the n_ids local appends that have an append id; their events are a_first to a_last.
--   y_type  the types of the group's events; one_type is the only one, or ''.
CREATE FUNCTION append_plain(
    now_us bigint,
    n_subs bigint, s_origin text, s_session text, s_after text,
    t_journal text, t_generation text, t_position text, t_timestamp text, t_entity text, t_seq text,
    n_entities bigint, n_no text, n_slice text, n_owner text, n_branch text, n_count text, n_prev text, n_last text,
    n_expect text, n_tags text,
    y_type text, one_type text,
    n bigint, e_ent text, e_seq text, e_time text, e_type text, e_codec text, e_tags text, e_metadata text,
    e_end text, payloads bytea, o_time bigint, o_type text, o_codec text, o_tags text, o_metadata text,
    n_ids bigint, a_id text, a_digest text, a_first text, a_last text,
    OUT head_position bigint,   -- after the group
    OUT last_timestamp bigint,  -- of its last event; those before it go back one by one
    OUT n_base bigint[]         -- number of an event = n_base[e_ent] + e_seq
) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    origins    CONSTANT text[] := texts(s_origin);
    numbers    CONSTANT bigint[] := n_no;
    known_type text;
    new_ids    bigint;
BEGIN
    -- Rows are looked up (= ANY), and what comes with them is joined: whatever the statistics say of a table, a plan of a session
    -- that was made when it was small never walks through all of it.

    -- The rows of the origins, then the head: each is compared as it is once it is locked (EvalPlanQual).
    WITH u AS MATERIALIZED (
        SELECT unnest(origins) AS id, unnest(s_session::bigint[]) AS session, unnest(s_after::bigint[]) AS after,
               unnest(texts(t_journal)) AS journal, unnest(texts(t_generation)) AS generation,
               unnest(t_position::bigint[]) AS position, unnest(t_timestamp::bigint[]) AS timestamp,
               unnest(texts(t_entity)) AS entity, unnest(t_seq::bigint[]) AS seq
    ), o AS (
        UPDATE origin AS o
        SET journal_id = u.journal, generation_id = u.generation, position = u.position, timestamp_us = u.timestamp,
            persistence_id = u.entity, seq_nr = u.seq, last_seen_us = now_us
        FROM u
        WHERE o.origin_id = ANY (origins) AND o.origin_id = u.id AND o.session = u.session AND o.position = u.after
        RETURNING 1
    )
    UPDATE head AS h
    SET position = h.position + n, timestamp_us = greatest(now_us - 1, h.timestamp_us) + n
    WHERE n_subs = (SELECT count(*) FROM o)
    RETURNING h.position, h.timestamp_us, h.block_type INTO head_position, last_timestamp, known_type;
    IF head_position IS NULL THEN
        RAISE EXCEPTION USING errcode = 'BH001';
    END IF;

    -- A statement of its own: it sees what was committed before the head was locked.
    WITH u AS MATERIALIZED (
        SELECT generate_series(1, n_entities) AS i, unnest(numbers) AS no, unnest(n_slice::int[]) AS slice,
               unnest(texts(n_owner)) AS owner, unnest(n_branch::bigint[]) AS branch, unnest(n_count::int[]) AS n,
               unnest(n_prev::bigint[]) AS prev, unnest(n_last::bigint[]) AS last,
               unnest(n_expect::bigint[]) AS expect, unnest(texts(n_tags)) AS tags
    ), moved AS (
        UPDATE entity AS h
        SET seq_nr = h.seq_nr + u.n,
            origin_seq_nr = CASE WHEN u.owner = '' THEN h.origin_seq_nr ELSE u.last END,
            branch = CASE WHEN u.owner = '' THEN h.branch ELSE u.branch END
        FROM u
        WHERE h.entity_no = ANY (numbers) AND h.entity_no = u.no
          AND (u.n = 0 OR h.owner = u.owner AND h.tags = coalesce(u.tags, o_tags))
          AND CASE WHEN u.owner = '' THEN u.expect IN (-1, h.seq_nr)
              ELSE h.parked = 0
                  AND CASE WHEN h.branch = u.branch THEN h.origin_seq_nr = u.prev ELSE h.origin_seq_nr >= u.prev END
              END
        RETURNING u.i, u.no, u.slice, u.owner = '' AS is_local, h.seq_nr - u.n - u.prev AS base
    ), a AS (
        SELECT array_agg(m.base ORDER BY m.i) AS base, array_agg(m.no ORDER BY m.i) AS no,
               array_agg(m.slice ORDER BY m.i) AS slice, array_agg(m.is_local ORDER BY m.i) AS is_local
        FROM moved AS m
        HAVING count(*) = n_entities
    ), e AS (
        INSERT INTO event (position, timestamp_us, stored_us, event_time_us, entity_no, seq_nr, origin_seq_nr, slice,
                           event_type, codec, tags, metadata, payload, prev_tags)
        SELECT head_position - n + e.i, last_timestamp - n + e.i, now_us, coalesce(e.time, o_time), a.no[e.ent],
               a.base[e.ent] + e.seq, CASE WHEN a.is_local[e.ent] THEN 0 ELSE e.seq END, a.slice[e.ent],
               coalesce(e.type, o_type), coalesce(e.codec, o_codec), coalesce(e.tags, o_tags),
               coalesce(e.metadata, o_metadata), substr(payloads, e.after + 1, e.until - e.after), ''
        FROM a, (
            SELECT generate_series(1, n) AS i, unnest(e_ent::int[]) AS ent, unnest(e_seq::bigint[]) AS seq,
                   unnest(e_time::bigint[]) AS time, unnest(texts(e_type)) AS type, unnest(texts(e_codec)) AS codec,
                   unnest(texts(e_tags)) AS tags, unnest(texts(e_metadata)) AS metadata, unnest(e_end::int[]) AS until,
                   unnest(0 || e_end::int[]) AS after
        ) AS e
        WHERE e.i <= n
    )
    SELECT a.base INTO n_base FROM a;
    IF n_base IS NULL THEN
        RAISE EXCEPTION USING errcode = 'BH001';
    END IF;

    IF n_ids > 0 THEN
        INSERT INTO append_id (append_id, digest, first_position, seq_nr, stored_us)
        SELECT u.id, decode(u.digest, 'hex'), head_position - n + u.first,
               array(SELECT n_base[e.ent] + e.seq
                     FROM unnest(e_ent::int[], e_seq::bigint[]) WITH ORDINALITY AS e (ent, seq, i)
                     WHERE e.i BETWEEN u.first AND u.last ORDER BY e.i),
               now_us
        FROM unnest(texts(a_id), texts(a_digest), a_first::int[], a_last::int[]) AS u (id, digest, first, last)
        ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS new_ids = ROW_COUNT;
        IF new_ids < n_ids THEN
            RAISE EXCEPTION USING errcode = 'BH001';
        END IF;
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
    IF o_tags <> '' OR e_tags <> '' THEN
        PERFORM index_tags(head_position - n + 1, head_position);
    END IF;
EXCEPTION WHEN SQLSTATE 'BH001' THEN
    head_position := NULL;
END $$;
