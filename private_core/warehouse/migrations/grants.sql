GRANT USAGE ON SCHEMA warehouse TO isthmus_warehouse;
GRANT SELECT ON ALL TABLES IN SCHEMA warehouse TO isthmus_warehouse;
-- What the rooms tell, it writes itself.
GRANT INSERT, UPDATE, DELETE ON warehouse.purchase, warehouse.payment TO isthmus_warehouse;
-- What the edge saw, the inward bridge lands, and removes in time. An event is never changed.
GRANT USAGE ON SCHEMA warehouse TO isthmus_bridge_inbound;
GRANT SELECT, INSERT, DELETE
    ON warehouse.impression, warehouse.click, warehouse.content_view, warehouse.content_receipt, warehouse.spool_ledger
    TO isthmus_bridge_inbound;
