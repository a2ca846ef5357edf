-- Functions of the owner; a dump that is restored has forgotten who may not call them.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA warehouse FROM PUBLIC;
GRANT USAGE ON SCHEMA warehouse TO isthmus_warehouse;
GRANT SELECT ON ALL TABLES IN SCHEMA warehouse TO isthmus_warehouse;
-- What the rooms tell, it writes itself.
GRANT INSERT, UPDATE, DELETE ON warehouse.purchase, warehouse.payment TO isthmus_warehouse;
-- What the edge saw, the inward bridge lands. An event is never changed, and goes with its day.
GRANT USAGE ON SCHEMA warehouse TO isthmus_bridge_inbound;
GRANT SELECT, INSERT
    ON warehouse.impression, warehouse.click, warehouse.content_view, warehouse.content_receipt, warehouse.spool_ledger
    TO isthmus_bridge_inbound;
GRANT SELECT, INSERT, DELETE
    ON warehouse.impression_id, warehouse.click_id, warehouse.content_view_id, warehouse.content_receipt_id,
        warehouse.spool_ledger_id
    TO isthmus_bridge_inbound;
GRANT EXECUTE ON FUNCTION warehouse.open_days, warehouse.drop_day TO isthmus_bridge_inbound;
