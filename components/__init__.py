"""Everything the product knows how to do, free of Prefect: model, data, training, CapFilt, evaluation."""
